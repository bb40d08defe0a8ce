/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * What the program shares with io::xdp: every struct, constant and map of which both sides must think the same.
 * src/io/xdp/abi.rs says it in Rust; both sides assert sizes and offsets when they are compiled.
 *
 * Byte order: addresses and ports are kept as they are in a packet, sequence numbers and times as the host counts.
 * An IPv4 address is kept as an IPv4-mapped IPv6 address. All times are milliseconds or nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef SYNWALL_ABI_H
#define SYNWALL_ABI_H

/* Raised with every change below: pinned maps of another version are drained, not adopted. */
#define ABI_VERSION 6

#define MAX_SERVICES 256
/* One row more than services: what belongs to none. */
#define SERVICE_ROWS (MAX_SERVICES + 1)
#define NO_SERVICE MAX_SERVICES

enum side {
	SIDE_CLIENT = 0,
	SIDE_SERVER = 1,
};

/* The order is DropReason's in engine/verdict.rs; a test compares the names. */
enum drop_reason {
	DROP_MALFORMED,
	DROP_BAD_CHECKSUM,
	DROP_BAD_FLAGS,
	DROP_BOGUS_ADDRESS,
	DROP_BOGUS_PORT,
	DROP_FRAGMENT,
	DROP_COOKIE_INVALID,
	DROP_COOKIE_REPLAYED,
	DROP_TIMESTAMPS_REQUIRED,
	DROP_NO_KEY,
	DROP_NO_FLOW,
	DROP_OUT_OF_WINDOW,
	DROP_BAD_RESET,
	DROP_EARLY_DATA_EXCEEDED,
	DROP_HALF_OPEN_FULL,
	DROP_FLOW_TABLE_FULL,
	DROP_UNEXPECTED_ANSWER,
	DROP_TOO_BIG,
	DROP_DENIED,
	DROP_SYN_RATE_EXCEEDED,
	DROP_SOURCE_RATE_EXCEEDED,
	DROP_SOURCE_CONNECTIONS_EXCEEDED,
	DROP_BACKEND_RATE_EXCEEDED,
	DROP_RESET_RATE_EXCEEDED,
	DROP_SOURCE_SHARE_FULL,
	DROP_ACK_STORM,
	DROP_ICMP_UNMATCHED,
	DROP_ICMP_RATE_EXCEEDED,
	DROP_REASONS,
};

/* settings.flags */
enum {
	/* Everything goes up, as if no program were attached: while the policy is being changed, and when it does not fit. */
	SETTING_BYPASS = 1 << 0,
	/* The filter has rules. */
	SETTING_FILTER = 1 << 1,
	/* There are direct flows: a SYN may be of a connection that the server itself opened. */
	SETTING_DIRECT_FLOWS = 1 << 2,
	/* There are more areas than are looked through one by one: area_trie knows them all. */
	SETTING_MANY_AREAS = 1 << 3,
	/* There may be flows of services that are protected no more. */
	SETTING_LINGERING = 1 << 4,
};

#define HASH_KEYS 11

/* Map `settings`, one entry: what holds for all services. Written by user space only. */
struct settings {
	__u32 version;
	__u32 flags;
	/* Nobody tends to the flows after this: SYNs are dropped, to be repeated. Nanoseconds. */
	__u64 alive_until;
	/* No server's refusal is remembered after this. Nanoseconds. */
	__u64 refused_until;
	/* Unix time, for TSval, and when it was that: nanoseconds both. */
	__u64 unix_nanos;
	__u64 unix_read_at;
	/* SipHash keys of the two newest epochs, by parity: k0, k1. */
	__u64 keys[2][2];
	/* Secrets of the hash of the flow table and of the budgets. */
	__u64 hash_keys[HASH_KEYS];
	/* Whether keys[parity] may be used. */
	__u8 has_key[2];
	/* Parity of the epoch to mint in. */
	__u8 parity;
	/* One SYN in 2^this is shown to the detector. */
	__u8 sampling_log2;
	/* Buckets of four flows. */
	__u32 buckets;
	/* Entries of `areas` in use. */
	__u32 areas;
	/* The longest IP packet that the link on each side carries: a longer one goes up. */
	__u16 mtu[2];
	__u32 cpus;
	__u32 reserved;
};

enum mode {
	MODE_OFF = 0,
	MODE_MONITOR = 1,
	MODE_ADAPTIVE = 2,
	MODE_ALWAYS = 3,
};

/* service.flags */
enum {
	SERVICE_REQUIRE_TIMESTAMPS = 1 << 0,
	SERVICE_SPEAKS_FIRST = 1 << 1,
	SERVICE_RESET_UNKNOWN = 1 << 2,
	/*
	 * Connections that began before the start are let through, or clients that were sent a cookie before they were let
	 * through: the engine knows which.
	 */
	SERVICE_GRACE = 1 << 3,
	/* What its server takes. */
	SERVICE_WSCALE = 1 << 4,
	SERVICE_SACK = 1 << 5,
	SERVICE_TIMESTAMPS = 1 << 6,
	SERVICE_ECN = 1 << 7,
};

/* Map `services`, SERVICE_ROWS entries. Written by user space, but for `pressed`. */
struct service {
	__u8 mode;
	__u8 flags;
	/* The window scale that cookies of even and odd epochs promise. */
	__u8 promised_wscale[2];
	/* The window of the SYN-ACK, octets. */
	__u16 early_data;
	/* The MSS that the SYN-ACK announces, IPv4 and IPv6, octets. */
	__u16 mss[2];
	/* SYN-ACKs that a CPU takes out of the budget at a time. */
	__u16 synack_chunk;
	/* Not 0: under pressure. The program sets it, user space confirms and clears it. */
	__u32 pressed;
	/* Nanoseconds an event; 0 is no limit. */
	__u64 synack_interval;
	__u64 source_interval;
	__u64 reset_interval;
	/* The SYN rate at which pressure begins, measured over `pressure_window` nanoseconds. */
	__u64 pressure_interval;
	__u64 pressure_window;
};

/* Map `budgets`, SERVICE_ROWS entries: when each is empty again (generic cell rate algorithm). Nanoseconds. */
struct budget {
	__u64 synack;
	__u64 reset;
	/* In row NO_SERVICE, for all services: see take_seen. */
	__u64 watched;
	__u64 let_off;
	__u64 padding[4];
};

/*
 * Map `source_budgets`, of __u64: the same for each source prefix (IPv4 /24, IPv6 /64) and what it is for. A prefix has two
 * cells of a block, so that a processor fetches one line of memory for both.
 */
#define SOURCE_BLOCKS 8192
#define SOURCE_CELLS 8

/*
 * Map `known`, of __u64, for an element of an array takes no less: clients that completed a handshake lately, as table/known.rs
 * has it: a tag of 16 bits, and 16 of when, in units of 2^KNOWN_UNIT_LOG2 nanoseconds. Written by user space only.
 */
#define KNOWN_BLOCKS 4096
#define KNOWN_BLOCK 256
#define KNOWN_UNIT_LOG2 32
/* Life of an entry in these units: an hour. */
#define KNOWN_LIFE 838
/* Domains of the hashes: that of a site (IPv4 /24, IPv6 /48), and that of an address. */
#define KNOWN_SITE (1 << 18)
#define KNOWN_CLIENT (1 << 19)

/*
 * Map `areas`: protected prefixes, the longest first; and map `area_trie`, of struct prefix_key to __u32, the index in
 * `areas`. What an area protects includes what shorter prefixes around it do.
 */
struct area {
	__u32 address[4];
	__u32 mask[4];
	/* One of its services, or of those of a shorter prefix around it, is not off. */
	__u32 is_protected;
	/* The kernel keeps entries of a map at multiples of 8 octets. */
	__u32 reserved;
};
/* Up to so many areas are looked through one by one. */
#define FEW_AREAS 4

/* Map `ports`: the service of each port of each area, plus one; 0 is none. Index: area * PORT_BLOCKS + port / PORT_BLOCK. */
#define PORT_BLOCK 32
#define PORT_BLOCKS (65536 / PORT_BLOCK)
struct port_block {
	__u16 service[PORT_BLOCK];
};

/* Key of the LPM tries `area_trie` and `filter`; prefix lengths are those of IPv4-mapped addresses. */
struct prefix_key {
	__u32 len;
	__u32 address[4];
};
/* Values of `filter`. */
enum rule {
	/* None: a hole in a prefix of the other family. */
	RULE_NONE = 0,
	RULE_DENY = 1,
	RULE_ALLOW = 2,
};

/* A connection, named from the client's side. Key of `pending`, whose value is when it was marked, in milliseconds. */
struct flow_key {
	__u32 client[4];
	__u32 server[4];
	/* As they stand in the client's segments: source port first. */
	__u16 client_port;
	__u16 server_port;
};
/* A mark counts for this long, milliseconds: longer than anything stays half-open. */
#define PENDING_LIFE 128000

/*
 * Map `hints`: what may be known of connections whose hash ends like this one's, so small that a processor keeps it at
 * hand. Looked at first: neither the flow table nor `pending` need be asked about nearly all that a flood is made of.
 * Which bits of the hash name a hint, its bit and its stamp is said in hash.h and io/xdp/hints.rs.
 */
#define HINTS 32768
struct hint {
	/* A bit is set if there is a flow; set before it is admitted, cleared after it is gone, by user space only. */
	__u32 flows;
	/* When one was last marked in `pending`, in units of 2^STAMP_SHIFT milliseconds. */
	__u16 stamps[2];
};
#define STAMP_SHIFT 10
/* As PENDING_LIFE, and one, for a stamp is of when its unit began. */
#define STAMP_LIFE (PENDING_LIFE / 1024 + 1)

/*
 * Key of `refused`: a server's port that refused lately, and the prefix of the client that it refused (see hash.h), or zeros
 * for all. The value is until when that counts, in nanoseconds.
 */
struct refusal_key {
	__u32 address[4];
	__u32 prefix[2];
	__u16 port;
	__u16 padding;
};

/* One end of a flow as its segments have shown it, in the server's sequence numbers: see engine::flow::End. */
struct end {
	__u32 next;
	__u32 acked;
	__u32 edge;
	__u32 max_window;
};

/* slot.flags, written by user space only. */
enum {
	/* The engine handles each of its segments. */
	FLOW_UP = 1 << 0,
	/* Let through as it is. */
	FLOW_DIRECT = 1 << 1,
	/* Of a direct flow: a SYN on its tuple was answered with a cookie; `ts_delta` is its ISS. */
	FLOW_CHALLENGED = 1 << 2,
};

/*
 * Map `slots`: flows. Four slots make a bucket; map `tags` has a word for each bucket, 16 bits a slot, 0 for a free one.
 * A flow is in one of two buckets, see hash.h. Only user space admits, moves and removes.
 */
struct slot {
	struct flow_key key;
	/* Odd while the slot is empty or being written. Read before and after. */
	__u32 version;
	__u32 delta;
	__u32 ts_delta;
	/* By side. */
	struct end ends[2];
	/* The server's latest TSval, and how far back TSvals count. */
	__u32 clock_latest;
	__u32 clock_reach;
	/* When its last segment came, milliseconds. */
	__u32 last_seen;
	__u32 client_iss;
	/*
	 * Four bits each, the lowest first: the scale of the server's window and the one its reader applies, the same of the
	 * client's.
	 */
	__u16 scales;
	__u16 service;
	/* Written by user space only: the program would undo a FLOW_UP that is set at the same time. */
	__u8 flags;
	/* Empty segments in turn that said nothing new. Written by the program only. */
	__u8 storm;
	/* The engine's own. */
	__u8 marks;
	/* The program's own: whether the last segment came from the server. */
	__u8 last_server;
};
#define SLOTS_PER_BUCKET 4

/*
 * Map `counters`: cpu * SERVICE_ROWS + service. What the program settled; what it passed up the engine counts.
 * The names are those of engine::stats.
 */
struct service_counters {
	__u64 syn_received;
	__u64 synack_sent;
	__u64 cookie_invalid;
	__u64 syn_signed;
	/* SYN-ACKs that this CPU may still send of the chunk it took. */
	__u64 synack_credit;
	/* The SYN rate test: when the meter would be empty again, nanoseconds. */
	__u64 pressure_meter;
	__u64 dropped[DROP_REASONS];
	__u64 padding[6];
};

/* Map `port_counters`: cpu * 2 + side. */
struct port_counters {
	__u64 received;
	__u64 received_octets;
	__u64 forwarded;
	__u64 consumed;
	__u64 dropped;
	__u64 originated;
	/* Passed to the engine, which counts them as received. */
	__u64 passed_up;
	__u64 padding;
	/* The program's own, from here: the clock as it was read at this tick of the kernel, until the next one. */
	__u64 tick;
	__u64 nanos;
	__u64 millis;
	/* Probes that may be looked at for a cookie until then. */
	__u64 probes;
	/* Meters of what went up, see up.h: when each is empty again, nanoseconds. */
	__u64 odd_meter;
	__u64 wanted_meter;
	__u64 opening_meter;
	__u64 long_meter;
};

/* Ring `sightings`. */
struct sighting {
	__u32 source[4];
	__u16 service;
	/* As the host counts. */
	__u16 source_port;
	__u16 port;
	__u8 hop_limit;
	__u8 weight_log2;
};

/* Map `links` (devmap): where to transmit, by side. */

#ifdef __bpf__
#define ASSERT_ABI(condition) _Static_assert(condition, #condition)
ASSERT_ABI(sizeof(struct settings) == 184);
ASSERT_ABI(sizeof(struct service) == 56);
ASSERT_ABI(sizeof(struct budget) == 64);
ASSERT_ABI(sizeof(struct area) == 40);
ASSERT_ABI(sizeof(struct port_block) == 64);
ASSERT_ABI(sizeof(struct prefix_key) == 20);
ASSERT_ABI(sizeof(struct flow_key) == 36);
ASSERT_ABI(sizeof(struct hint) == 8);
ASSERT_ABI(sizeof(struct refusal_key) == 28);
ASSERT_ABI(sizeof(struct slot) == 104);
ASSERT_ABI(sizeof(struct service_counters) == 320);
ASSERT_ABI(sizeof(struct port_counters) == 128);
ASSERT_ABI(sizeof(struct sighting) == 24);
#endif

#endif
