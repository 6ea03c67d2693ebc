//! What goes into the controllers of the cluster in memory, and what is done of what they command: messages, disks, pages,
//! frames, ends.

use super::{ROUND, World, times};
use crate::core::agreement::document::Member;
use crate::core::agreement::message::Message;
use crate::core::agreement::types::{Command, Input};
use crate::core::agreement::voter::State;
use std::collections::VecDeque;

impl World {
    pub(super) fn deliver(&mut self) {
        type Queue = VecDeque<(u64, Member, u16, Message)>;
        let (due, later): (Queue, Queue) = self.queue.drain(..).partition(|(at, ..)| *at <= self.now);
        self.queue = later;
        for (_, from, to, message) in due {
            let this = &self.nodes[&to];
            let lost = self.mute.contains(&(from.node.0, to)) || !self.nodes[&from.node.0].kernel.up || !this.kernel.up;
            if lost || this.agreement.is_none() || (self.lose)(&message, from.node.0, to) {
                continue;
            }
            if this.stalled_since.is_some() {
                self.queue.push_back((self.now + ROUND, from, to, message));
                continue;
            }
            let read = Message::decode(&message.encode()).unwrap();
            self.input(to, Input::Message(from, Box::new(read)));
        }
    }

    pub(super) fn write(&mut self, node: u16) {
        let this = self.nodes.get_mut(&node).unwrap();
        if this.disk_hangs {
            return;
        }
        let now = self.now;
        let Some((_, state)) = this.writes.pop_front_if(|(due, _)| *due <= now) else { return };
        if std::mem::take(&mut this.disk_fails) {
            self.input(node, Input::WriteFailed);
            return;
        }
        state.check().unwrap();
        let sequence = state.sequence;
        this.disk = Some(borsh::to_vec(&state).unwrap());
        if this.dies_with.take_if(|order| state.installed.order >= *order).is_some() {
            self.kill_controller(node);
            return;
        }
        self.input(node, Input::Written(sequence));
    }

    pub fn input(&mut self, node: u16, input: Input) {
        let now = times(self.now);
        let Some(agreement) = &mut self.nodes.get_mut(&node).unwrap().agreement else { return };
        agreement.handle(input, now);
        self.carry_out(node);
    }

    pub(super) fn carry_out(&mut self, node: u16) {
        loop {
            let Some(agreement) = &mut self.nodes.get_mut(&node).unwrap().agreement else { return };
            let events: Vec<_> = std::iter::from_fn(|| agreement.poll_event()).collect();
            let command = agreement.poll_command();
            self.nodes.get_mut(&node).unwrap().events.extend(events);
            let Some(command) = command else { return };
            if !matches!(command, Command::Send(..)) {
                self.nodes.get_mut(&node).unwrap().log.push(command.clone());
            }
            self.one(node, command);
        }
    }

    fn one(&mut self, node: u16, command: Command) {
        let (now, from) = (self.now, self.member(node));
        let this = self.nodes.get_mut(&node).unwrap();
        let kernel = &mut this.kernel;
        match command {
            Command::Send(to, message) => self.queue.push_back((now + ROUND, from, to.0, *message)),
            Command::Write(state) => this.writes.push_back((now + ROUND, *state)),
            Command::ClearGrants(mark) => {
                kernel.own_date = now;
                kernel.granting = 0;
                kernel.cleared = mark;
            }
            Command::Install(bank) => {
                let until = kernel.lease_until();
                let member = kernel.bank.as_ref().is_some_and(|bank| bank.member);
                kernel.carry_until = if bank.carry && member && until != u64::MAX { until } else { 0 };
                kernel.dates.clear();
                kernel.own_date = 0;
                kernel.bank = Some(*bank);
            }
            Command::SetGranting(mark) => kernel.granting = mark,
            Command::InForce(order) => kernel.in_force = order,
            Command::Hold(bits) => kernel.hold = bits,
            Command::Standing(standing) => {
                let order = standing.view.order;
                self.views.entry(order).or_insert_with(|| {
                    let bytes = this.disk.as_ref().unwrap();
                    borsh::from_slice::<State>(bytes).unwrap().installed
                });
                if self.frames_wait {
                    this.standing_due = Some(*standing);
                } else {
                    kernel.standing = Some(*standing);
                    self.input_later(node, Input::StandingDone(order));
                }
            }
            Command::Fence(victim, view) => self.fence(node, victim, view.order),
            Command::StopServices => self.input_later(node, Input::ServicesStopped),
            Command::Exit(ending) => {
                this.ended = Some(ending);
                this.agreement = None;
                kernel.stopped = true;
            }
            Command::Burst | Command::Answer(..) => {}
        }
    }

    /// All frames are changed that waited for it.
    pub fn change_frames(&mut self) {
        self.frames_wait = false;
        let nodes: Vec<u16> = self.nodes.keys().copied().collect();
        for node in nodes {
            let this = self.nodes.get_mut(&node).unwrap();
            let Some(standing) = this.standing_due.take() else { continue };
            let order = standing.view.order;
            this.kernel.standing = Some(standing);
            self.input(node, Input::StandingDone(order));
        }
    }

    fn input_later(&mut self, node: u16, input: Input) {
        let now = times(self.now);
        if let Some(agreement) = &mut self.nodes.get_mut(&node).unwrap().agreement {
            agreement.handle(input, now);
        }
    }
}
