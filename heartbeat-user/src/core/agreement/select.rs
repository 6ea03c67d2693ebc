//! The surviving set: who can stay together, from who hears whom. The same reports give the same set on every node. It
//! asks nobody, and does not say whether the set may decide.
//!
//! The set is fully connected both ways. Of several the best is taken: by weight of votes, then by number of nodes, then
//! by how many others its nodes hear both ways, then the one without the node of lower priority, then the lowest ids.

/// Steps of the search after which it goes on greedily. Real graphs, where nearly everybody hears everybody, take a few.
const STEPS_MAX: u32 = 200_000;

/// A node that may survive. Its place among the candidates is its bit in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Weight, in the view that is succeeded, of the vote that it holds.
    pub weight: u32,
    /// It gives way where all else is equal.
    pub low: bool,
}

/// Who survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The set, a bit for each candidate.
    pub set: u64,
    /// Its weight.
    pub weight: u32,
    /// False: the graph was so tangled that a good set was taken without a search for the best.
    pub exact: bool,
}

/// Selects from at most 64 candidates, in the order of their ids; `hears[a]` has bit `b` if `a` hears `b`.
#[must_use]
pub fn select(candidates: &[Candidate], hears: &[u64]) -> Selection {
    let mut search = Search::new(candidates, hears);
    if search.whole() {
        // Nearly always: all hear each other, and there is one maximal set.
        return Selection { set: search.all, weight: search.weight(search.all), exact: true };
    }
    search.expand(0, search.all, 0);
    if !search.exact {
        let greedy = search.greedy();
        search.offer(greedy);
    }
    Selection { set: search.best.unwrap_or(0), weight: search.weight(search.best.unwrap_or(0)), exact: search.exact }
}

struct Search<'a> {
    candidates: &'a [Candidate],
    /// Bit `b` of entry `a`: they hear each other.
    mutual: [u64; 64],
    all: u64,
    best: Option<u64>,
    steps: u32,
    exact: bool,
}

/// What sets are compared by, the better one greater; the lowest ids are left to [`Search::offer`].
type Rank = (u32, u32, u32, bool);

impl<'a> Search<'a> {
    fn new(candidates: &'a [Candidate], hears: &[u64]) -> Self {
        let candidates = candidates.get(..64).unwrap_or(candidates);
        let all = if candidates.len() == 64 { u64::MAX } else { (1 << candidates.len()) - 1 };
        let of = |node: usize| hears.get(node).copied().unwrap_or(0) & all & !(1 << node);
        let mut mutual = [0; 64];
        for (a, set) in mutual.iter_mut().enumerate().take(candidates.len()) {
            *set = bits(of(a)).filter(|&b| of(b) >> a & 1 == 1).fold(0, |set, b| set | 1 << b);
        }
        Self { candidates, mutual, all, best: None, steps: 0, exact: true }
    }

    /// Says whether all candidates hear each other.
    fn whole(&self) -> bool {
        bits(self.all).all(|node| self.mutual[node] | 1 << node == self.all)
    }

    /// Bron and Kerbosch's search for maximal cliques, with a pivot (E. Tomita et al., 2006): `set` is one so far, each
    /// of `open` would fit into it, and so would each of `done`, with which it was tried.
    fn expand(&mut self, set: u64, open: u64, done: u64) {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            self.exact = false;
            return;
        }
        let Some(pivot) = bits(open | done).max_by_key(|&node| (open & self.mutual[node]).count_ones()) else {
            self.offer(set);
            return;
        };
        let (mut open, mut done) = (open, done);
        for node in bits(open & !self.mutual[pivot]) {
            let near = self.mutual[node];
            self.expand(set | 1 << node, open & near, done & near);
            open &= !(1 << node);
            done |= 1 << node;
        }
    }

    /// Drops whoever is worst connected until all that are left hear each other.
    fn greedy(&self) -> u64 {
        let mut set = self.all;
        loop {
            let degree = |node: usize| (self.mutual[node] & set).count_ones();
            let Some(worst) = bits(set).min_by_key(|&node| (degree(node), usize::MAX - node)) else { return set };
            if degree(worst) + 1 == set.count_ones() {
                return set;
            }
            set &= !(1 << worst);
        }
    }

    fn offer(&mut self, set: u64) {
        let better = self.best.is_none_or(|best| {
            let (new, old) = (self.rank(set), self.rank(best));
            // Of two sets, the one that has the lowest node in which they differ has the lower ids.
            let lower = (set ^ best) & (set ^ best).wrapping_neg() & set != 0;
            new > old || new == old && lower
        });
        if better {
            self.best = Some(set);
        }
    }

    fn rank(&self, set: u64) -> Rank {
        let edges = bits(set).map(|node| self.mutual[node].count_ones()).sum();
        let low = bits(set).any(|node| self.candidates[node].low);
        (self.weight(set), set.count_ones(), edges, !low)
    }

    fn weight(&self, set: u64) -> u32 {
        bits(set).map(|node| self.candidates[node].weight).sum()
    }
}

/// The nodes of a set, in order.
pub fn bits(set: u64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(set), |set| Some(set & set.wrapping_sub(1)))
        .take_while(|set| *set != 0)
        .map(|set| set.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests;
