/*
 * heartbeat_lease.h: asks, from C, whether this node may act. Header-only, C11, no dependency but libc on Linux.
 *
 *     hb_lease lease;
 *     hb_token token;
 *     if (hb_lease_open(&lease, NULL) != 0)           // the socket of the service; NULL: the usual one
 *         return -1;                                  // errno says why
 *     ...
 *     if (hb_lease_acting(&lease, &token) == HB_MAY_ACT)
 *         act(token.order, token.incarnation);        // whoever receives it keeps the highest order and refuses lower
 *
 * A judgement is of one moment: ask just before each act that others see, and give the token to whoever receives it.
 * Between the question and the act this process may be stopped for any time, and only the receiver can tell.
 * HB_CLOSED means that heartbeatd has another page by now: hb_lease_close(), then hb_lease_open().
 *
 * It judges as heartbeat-common/src/lease.rs does; a test compares the two on a million pages.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef HEARTBEAT_LEASE_H
#define HEARTBEAT_LEASE_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first include: struct ucred and MSG_CMSG_CLOEXEC are Linux's own"
#endif

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HB_LEASE_SOCKET "/run/heartbeatd/lease.sock"
#define HB_LEASE_USER "heartbeatd"

/* The page: 512 words. "HBLEASE2", little-endian; it changes with the layout. */
#define HB_PAGE_LEN 4096
#define HB_MAGIC                                                                                                       \
    ((uint64_t)'H' | (uint64_t)'B' << 8 | (uint64_t)'L' << 16 | (uint64_t)'E' << 24 | (uint64_t)'A' << 32 |            \
     (uint64_t)'S' << 40 | (uint64_t)'E' << 48 | (uint64_t)'2' << 56)

/* Words of the header. */
enum {
    HB_WORD_MAGIC = 0,
    HB_WORD_INCARNATION = 1,
    HB_WORD_FENCED = 2,
    HB_WORD_GRANTING = 3,
    HB_WORD_ACTIVE = 4,
    HB_WORD_CLOSED = 5,
    HB_WORD_IN_FORCE = 6,
    HB_WORD_HOLD = 9,
    HB_WORD_AHEAD = 10,
    HB_WORD_LIVES_UNTIL = 13,
    HB_WORD_BANKS = 16
};

/* Words of a bank, from its beginning. */
enum {
    HB_SLOTS = 96,
    HB_BANK_ACT_NS = 3,
    HB_BANK_FLOOR_NS = 4,
    HB_BANK_BOOT_OFFSET_NS = 5,
    HB_BANK_CARRY_UNTIL_NS = 6,
    HB_BANK_OWN_MARK = 7,
    HB_BANK_OWN_DATE_NS = 8,
    HB_BANK_TOTAL_WEIGHT = 9,
    HB_BANK_OWN_WEIGHT = 10,
    HB_BANK_MEMBER = 11,
    HB_BANK_SLOTS_USED = 12,
    HB_BANK_WEIGHTS = 16,
    HB_BANK_EXPECTED = HB_BANK_WEIGHTS + HB_SLOTS / 8,
    HB_BANK_DATES = HB_BANK_EXPECTED + HB_SLOTS,
    HB_BANK_WORDS = HB_BANK_DATES + HB_SLOTS
};

/* What an outward act carries. Compare order first, as a number: force count (16 bits) above view number (48 bits). */
typedef struct {
    uint64_t order;
    uint64_t incarnation;
} hb_token;

/* Why this node may not act; the first reason in this order. */
typedef enum {
    HB_MAY_ACT = 0,
    HB_NO_PAGE = 1,      /* no page of this layout */
    HB_CLOSED = 2,       /* the page is over: open the new one */
    HB_NOBODY = 3,       /* heartbeatd has not started here */
    HB_FENCED = 4,       /* this node was fenced */
    HB_HELD = 5,         /* a reason of this node's own */
    HB_AHEAD = 6,        /* this machine was set back to an older snapshot */
    HB_NO_MEMBER = 7,    /* no member of the view installed here */
    HB_NOT_IN_FORCE = 8, /* no view with this node is in force yet */
    HB_EXPIRED = 9,      /* no majority of votes has granted lately */
    HB_UNSTEADY = 10     /* replaced each time that it was read: ask again */
} hb_refused;

/* A page that is open for reading: mapped, or the kernel's map, which is copied by a system call at each question. */
typedef struct {
    const uint64_t *page;
    int map; /* 0: none; else one more than its descriptor */
} hb_lease;

static inline uint64_t hb_get(const uint64_t *page, unsigned index)
{
    return __atomic_load_n(page + index, __ATOMIC_ACQUIRE);
}

static inline uint64_t hb_add(uint64_t one, uint64_t other)
{
    return one > UINT64_MAX - other ? UINT64_MAX : one + other;
}

static inline int hb_counts(const uint64_t *page, unsigned bank, uint64_t date, uint64_t now)
{
    uint64_t end;
    if (date == 0 || date < hb_get(page, bank + HB_BANK_FLOOR_NS))
        return 0;
    end = hb_add(date, hb_get(page, bank + HB_BANK_BOOT_OFFSET_NS));
    return hb_add(end, hb_get(page, bank + HB_BANK_ACT_NS)) > now;
}

static inline int hb_own_counts(const uint64_t *page, unsigned bank, uint64_t now)
{
    uint64_t mark = hb_get(page, bank + HB_BANK_OWN_MARK);
    return mark != 0 && (hb_get(page, HB_WORD_GRANTING) == mark ||
                         hb_counts(page, bank, hb_get(page, bank + HB_BANK_OWN_DATE_NS), now));
}

static inline int hb_granted(const uint64_t *page, unsigned bank, uint64_t now)
{
    uint64_t used = hb_get(page, bank + HB_BANK_SLOTS_USED);
    uint64_t sum = hb_own_counts(page, bank, now) ? hb_get(page, bank + HB_BANK_OWN_WEIGHT) : 0;
    unsigned slot;
    if (used > HB_SLOTS)
        used = HB_SLOTS;
    for (slot = 0; slot < used; slot++)
        if (hb_counts(page, bank, hb_get(page, bank + HB_BANK_DATES + slot), now))
            sum = hb_add(sum, hb_get(page, bank + HB_BANK_WEIGHTS + slot / 8) >> (slot % 8 * 8) & 0xff);
    return (sum > UINT64_MAX / 2 ? UINT64_MAX : sum * 2) > hb_get(page, bank + HB_BANK_TOTAL_WEIGHT);
}

static inline hb_refused hb_judge_bank(const uint64_t *page, unsigned bank, uint64_t now, hb_token *token)
{
    uint64_t lives_until = hb_get(page, HB_WORD_LIVES_UNTIL);
    if (hb_get(page, HB_WORD_MAGIC) != HB_MAGIC)
        return HB_NO_PAGE;
    if (hb_get(page, HB_WORD_CLOSED) != 0 || (lives_until != 0 && now >= lives_until))
        return HB_CLOSED;
    token->incarnation = hb_get(page, HB_WORD_INCARNATION);
    if (token->incarnation == 0)
        return HB_NOBODY;
    if (hb_get(page, HB_WORD_FENCED) >= token->incarnation)
        return HB_FENCED;
    if (hb_get(page, HB_WORD_HOLD) != 0)
        return HB_HELD;
    if (hb_get(page, HB_WORD_AHEAD) != 0)
        return HB_AHEAD;
    if (hb_get(page, bank + HB_BANK_MEMBER) == 0)
        return HB_NO_MEMBER;
    token->order = hb_get(page, HB_WORD_IN_FORCE);
    if (token->order == 0)
        return HB_NOT_IN_FORCE;
    if (now < hb_get(page, bank + HB_BANK_CARRY_UNTIL_NS) || hb_granted(page, bank, now))
        return HB_MAY_ACT;
    return HB_EXPIRED;
}

/* Judges a page at `now`, CLOCK_BOOTTIME ns. `token` is zero unless the answer is HB_MAY_ACT. */
static inline hb_refused hb_lease_judge(const uint64_t *page, uint64_t now, hb_token *token)
{
    int attempt;
    for (attempt = 0; attempt < 4; attempt++) {
        uint64_t active = hb_get(page, HB_WORD_ACTIVE);
        unsigned bank = HB_WORD_BANKS + (unsigned)(active & 1) * HB_BANK_WORDS;
        hb_token found = {0, 0};
        hb_refused refused = hb_judge_bank(page, bank, now, &found);
        if (hb_get(page, HB_WORD_ACTIVE) != active)
            continue;
        token->order = refused == HB_MAY_ACT ? found.order : 0;
        token->incarnation = refused == HB_MAY_ACT ? found.incarnation : 0;
        return refused;
    }
    token->order = 0;
    token->incarnation = 0;
    return HB_UNSTEADY;
}

/* Copies the one value of a map. 0, or -1 with errno. */
static inline int hb_copy(int fd, uint64_t *page)
{
    struct {
        uint32_t map_fd, zero;
        uint64_t key, value, flags;
    } attribute;
    uint32_t key = 0;
    memset(&attribute, 0, sizeof attribute);
    attribute.map_fd = (uint32_t)fd;
    attribute.key = (uint64_t)(uintptr_t)&key;
    attribute.value = (uint64_t)(uintptr_t)page;
    return syscall(SYS_bpf, 1 /* BPF_MAP_LOOKUP_ELEM */, &attribute, sizeof attribute) < 0 ? -1 : 0;
}

/*
 * Copies a map so that the copy is of one bank, whole: which bank is active and whose page it is have to be the same in
 * the copies before and after it. HB_MAY_ACT: it is.
 */
static inline hb_refused hb_copy_whole(int fd, uint64_t *page)
{
    uint64_t after[HB_PAGE_LEN / 8];
    int attempt;
    if (hb_copy(fd, after) != 0)
        return HB_NO_PAGE;
    for (attempt = 0; attempt < 4; attempt++) {
        uint64_t active = after[HB_WORD_ACTIVE], incarnation = after[HB_WORD_INCARNATION];
        if (hb_copy(fd, page) != 0 || hb_copy(fd, after) != 0)
            return HB_NO_PAGE;
        if (page[HB_WORD_ACTIVE] == active && after[HB_WORD_ACTIVE] == active &&
            page[HB_WORD_INCARNATION] == incarnation && after[HB_WORD_INCARNATION] == incarnation)
            return HB_MAY_ACT;
    }
    return HB_UNSTEADY;
}

/*
 * Says whether this node may act now. It costs a few short system calls where the kernel keeps the page, and none where
 * heartbeatd runs without the kernel.
 */
static inline hb_refused hb_lease_acting(const hb_lease *lease, hb_token *token)
{
    uint64_t copy[HB_PAGE_LEN / 8];
    const uint64_t *page = lease->page;
    struct timespec time;
    token->order = 0;
    token->incarnation = 0;
    if (lease->map != 0) {
        hb_refused refused = hb_copy_whole(lease->map - 1, copy);
        if (refused != HB_MAY_ACT)
            return refused;
        page = copy;
    }
    if (page == NULL)
        return HB_NO_PAGE;
    /* The clock last: a copy is of a moment before. */
    if (clock_gettime(CLOCK_BOOTTIME, &time) != 0)
        return HB_UNSTEADY;
    return hb_lease_judge(page, (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec, token);
}

/* The same as a truth value. */
static inline int hb_lease_valid(const hb_lease *lease, hb_token *token)
{
    return hb_lease_acting(lease, token) == HB_MAY_ACT;
}

/* Writes `force.number.incarnation`; 48 bytes are enough. Returns as snprintf. */
static inline int hb_token_text(const hb_token *token, char *text, size_t size)
{
    return snprintf(text, size, "%u.%llu.%llu", (unsigned)(token->order >> 48),
                    (unsigned long long)(token->order & ((UINT64_C(1) << 48) - 1)),
                    (unsigned long long)token->incarnation);
}

/*
 * A process in a time namespace with an offset would judge by a clock that the kernel does not keep: EXDEV. Also where
 * nobody can tell, for want of /proc.
 */
static inline int hb_refuse_shifted(void)
{
    char line[128];
    int shifted = 0;
    FILE *file = fopen("/proc/self/timens_offsets", "re");
    if (file == NULL) {
        /* A kernel without time namespaces has no such file. */
        if (errno == ENOENT && access("/proc/self/stat", R_OK) == 0)
            return 0;
        errno = EXDEV;
        return -1;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        char name[32];
        long long seconds = 1, nanoseconds = 1;
        if (sscanf(line, "%31s %lld %lld", name, &seconds, &nanoseconds) != 3 || seconds != 0 || nanoseconds != 0)
            shifted = 1;
    }
    fclose(file);
    if (shifted) {
        errno = EXDEV;
        return -1;
    }
    return 0;
}

/* Says whether there is a map of one such page behind a descriptor. 0, or -1 with errno. */
static inline int hb_check_map(int fd)
{
    struct {
        uint32_t bpf_fd, info_len;
        uint64_t info;
    } attribute;
    uint32_t info[16]; /* struct bpf_map_info: type, id, key_size, value_size */
    memset(&attribute, 0, sizeof attribute);
    memset(info, 0, sizeof info);
    attribute.bpf_fd = (uint32_t)fd;
    attribute.info_len = sizeof info;
    attribute.info = (uint64_t)(uintptr_t)info;
    if (syscall(SYS_bpf, 15 /* BPF_OBJ_GET_INFO_BY_FD */, &attribute, sizeof attribute) < 0)
        return -1;
    if (info[2] != 4 || info[3] != HB_PAGE_LEN) {
        errno = EPROTO;
        return -1;
    }
    return 0;
}

/*
 * Opens the page behind a descriptor that cannot write, which stays the caller's. 0, or -1 with errno; EPERM also where
 * this process may not call bpf(2), as in a container whose filter forbids it.
 */
static inline int hb_lease_open_fd(hb_lease *lease, int fd)
{
    struct stat found;
    uint64_t copy[HB_PAGE_LEN / 8];
    void *page;
    int seals, flags = fcntl(fd, F_GETFL);
    lease->page = NULL;
    lease->map = 0;
    if (flags < 0 || fstat(fd, &found) != 0)
        return -1;
    if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_PATH) != 0) {
        errno = EACCES;
        return -1;
    }
    if (!S_ISREG(found.st_mode)) {
        int map;
        if (hb_check_map(fd) != 0 || hb_copy(fd, copy) != 0)
            return -1;
        if (copy[HB_WORD_MAGIC] != HB_MAGIC) {
            errno = EPROTO;
            return -1;
        }
        map = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (map < 0)
            return -1;
        lease->map = map + 1;
        return 0;
    }
    /* A page that is cut off under its reader kills the reader. */
    seals = fcntl(fd, F_GET_SEALS);
    if (found.st_size < HB_PAGE_LEN || seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        errno = EPROTO;
        return -1;
    }
    page = mmap(NULL, HB_PAGE_LEN, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return -1;
    if (hb_get((const uint64_t *)page, HB_WORD_MAGIC) != HB_MAGIC) {
        munmap(page, HB_PAGE_LEN);
        errno = EPROTO;
        return -1;
    }
    lease->page = (const uint64_t *)page;
    return 0;
}

static inline int hb_believed(uid_t uid)
{
    struct passwd entry, *found = NULL;
    char buffer[4096];
    if (uid == 0 || uid == geteuid())
        return 1;
    return getpwnam_r(HB_LEASE_USER, &entry, buffer, sizeof buffer, &found) == 0 && found != NULL &&
           found->pw_uid == uid;
}

/* Receives exactly one descriptor, or -1 with errno: ENODATA if there is no page yet. */
static inline int hb_receive(int stream)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    char byte;
    struct iovec bytes = {&byte, 1};
    struct msghdr message;
    struct cmsghdr *each;
    int page = -1, more = 0;
    memset(&message, 0, sizeof message);
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    if (recvmsg(stream, &message, MSG_CMSG_CLOEXEC) < 0)
        return -1;
    for (each = CMSG_FIRSTHDR(&message); each != NULL; each = CMSG_NXTHDR(&message, each)) {
        size_t at, count;
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (at = 0; at < count; at++) {
            int fd;
            memcpy(&fd, CMSG_DATA(each) + at * sizeof fd, sizeof fd);
            if (page < 0) {
                page = fd;
            } else {
                close(fd);
                more = 1;
            }
        }
    }
    if (more || (message.msg_flags & MSG_CTRUNC) != 0) {
        if (page >= 0)
            close(page);
        errno = EPROTO;
        return -1;
    }
    if (page < 0)
        errno = ENODATA;
    return page;
}

/*
 * Opens the page by heartbeatd's socket; NULL: the usual one. 0, or -1 with errno, among it: ENOENT or ECONNREFUSED,
 * nobody listens; ENODATA, heartbeatd has no page yet; EPERM, the socket is another user's; EPROTO, it is no page of
 * this layout; EXDEV, this process is in a time namespace. It waits for nobody longer than a second.
 */
static inline int hb_lease_open(hb_lease *lease, const char *path)
{
    struct sockaddr_un address;
    struct timeval patience = {1, 0};
    struct ucred peer;
    socklen_t length = sizeof peer;
    int stream, page = -1, result, error;
    lease->page = NULL;
    lease->map = 0;
    if (path == NULL)
        path = HB_LEASE_SOCKET;
    if (hb_refuse_shifted() != 0)
        return -1;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream < 0)
        return -1;
    result = setsockopt(stream, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (result == 0)
        result = setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (result == 0)
        result = connect(stream, (const struct sockaddr *)&address, sizeof address);
    if (result == 0)
        result = getsockopt(stream, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    if (result == 0 && !hb_believed(peer.uid)) {
        errno = EPERM;
        result = -1;
    }
    if (result == 0) {
        page = hb_receive(stream);
        result = page < 0 ? -1 : hb_lease_open_fd(lease, page);
    }
    error = errno;
    if (page >= 0)
        close(page);
    close(stream);
    errno = error;
    return result;
}

/* Gives the page back. It may be called twice. */
static inline void hb_lease_close(hb_lease *lease)
{
    if (lease->page != NULL)
        munmap((void *)(uintptr_t)lease->page, HB_PAGE_LEN);
    if (lease->map != 0)
        close(lease->map - 1);
    lease->page = NULL;
    lease->map = 0;
}

#endif
