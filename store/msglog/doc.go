// Package msglog keeps messages until everybody who needs them has them: an append-only,
// checksummed log in segment files, with group commit and consumers whose positions survive.
//
// A message is an opaque body with the numbers of the consumers that need it. It is stored once,
// however many they are. [Log.Append] returns when the message is as durable as [Durability]
// says; a [Consumer] reads its messages in order and acknowledges them; what nobody needs any
// more is deleted. Delivery is at least once: acknowledgments are remembered lazily.
//
// # Design
//
// Group commit. Appends go into a batch in memory. One goroutine writes whatever has gathered
// while the write before ran, syncs once, and calls everybody who waits in order. A batch is
// closed at 256 KiB, so that a sync covers a few large writes under load and one small one when
// a publisher is alone.
//
// What a power cut leaves. Sectors that were written since the last sync reach a card in any
// order or not at all. Every batch therefore carries a checksum and the end of the last synced
// batch when it was written: the mark. Damage at or beyond the newest mark that can be
// found is tail: nothing there was reported as durable, and it is cut off. Damage before it is
// corruption: the range is copied into a file of its own, and the log goes on behind it and says
// that it is degraded ([Log.Recovery]) until the operator removes that file. A segment is synced before
// the next one begins, and its directory entry with its first batch. It is assumed that a
// sector which is written again with more at its end keeps what it had, as storage does that
// writes sectors whole.
//
// Sequence numbers. Messages are numbered as they are committed. A number is never given to two
// messages, not even if the first was lost in a power cut after somebody had read it: each opening
// begins 2^28 higher, and writes that down before the first message.
//
// Positions. What a consumer is done with is a number up to which all is done, and ranges beyond
// it. New entries are appended with the next batch, or alone after a second. The checkpoint holds
// the state of all consumers and how many messages each still needs from each segment, so
// that opening reads only what follows it; it is replaced with each new segment, before segments
// are deleted, and at Close. Each segment begins with a snapshot of all consumers: without the
// checkpoint the log is read whole, and nothing but counters and the last acknowledgments is lost.
//
// Memory does not grow with the backlog: a reader has a place in a segment and a window, and
// what is kept per message concerns only those that were read and are not acknowledged.
//
// Room. A segment that nobody needs is deleted. When three quarters of the budget are used, expired
// messages at the heads of the queues go, and segments that are mostly dead are
// compacted: what is needed of neighbouring ones is copied, numbers and all, into a file that
// replaces the first of them, and the others are deleted. The rest of the budget refuses
// messages ([ErrFull]) but keeps a little for acknowledgments, which are what makes room. A write
// that finds the disk full is taken back by truncation and everything in it is refused; the next
// append tries again. When there is not even room for the checkpoint that must precede a
// deletion, dead segments are emptied first: an empty file is one that nobody needs, a missing
// one is a loss. After a failed sync the kernel may believe pages to be clean that it has
// dropped; what was not synced is written again before another sync is believed.
//
// # Files
//
//	NNNNNNNNNNNNNNNN.log               a segment; N is its number, 16 hexadecimal digits
//	NNNNNNNNNNNNNNNN.compact           a compacted segment in the making; removed when opened
//	NNNNNNNNNNNNNNNN-OOOOOOOOOO.damaged  what was found damaged at byte O of segment N
//	NNNNNNNNNNNNNNNN.missing           segment N was lost; empty
//	checkpoint                         the checkpoint
//	lock                               locked with flock while the log is open; empty
//
// # Format
//
// Numbers of fixed size are little endian. A uvarint is that of encoding/binary: seven bits per
// byte, the least significant first, the top bit set in all but the last; a varint is the zigzag
// form of a signed number. A checksum is CRC-32C (Castagnoli). Times are microseconds since
// 1970-01-01T00:00Z.
//
// A segment begins with 64 bytes:
//
//	 0  8  "GWMSGLOG"
//	 8  2  version of the format: 1
//	10  2  length of this header: 64
//	12  4  generation: how often the segment was compacted
//	16  8  number of the segment, the first is 1
//	24  8  number of the last segment whose messages are in this one; greater than the
//	       number only after compaction
//	32  8  sequence number of the first message, or of the next one to come
//	40 16  identity of the log, random, the same in all its files
//	56  4  0
//	60  4  checksum of bytes 0 to 59
//
// Batches follow without gaps until the end of the file. A batch begins with 48 bytes:
//
//	 0  4  "gwB" and 0x01
//	 4  4  checksum of the identity of the log (16 bytes), the number of the segment (8), the
//	       offset of the batch in it (8), bytes 8 to 47, and the payload: a batch that turns up in
//	       another place does not fit
//	 8  4  length of the payload
//	12  4  number of message records in it
//	16  8  sequence number of the first of them, or of the next one to come; the others follow
//	       one by one. It never descends from batch to batch, gaps are allowed.
//	24  8  time of the batch
//	32  8  the mark: a segment, 0 in compacted segments ...
//	40  4  ... and an offset in it
//	44  4  0
//
// The payload is a series of records: the kind (1 byte), the length of the content (uvarint), the
// content.
//
//	  1  message      time as the difference to the batch's (varint); 0 if it never expires, else one
//	                  plus the milliseconds from its time to its expiry (uvarint); number of
//	                  consumers (uvarint); their numbers (uvarints); the rest is the body
//	  2  done         a consumer (uvarint), then entries: the first sequence number as the difference to
//	                  the last one of the entry before, or to 0 (varint); the last as the difference to
//	                  the first (uvarint); how many messages of the consumer these are that it had not
//	                  done with before, all in the segment of the last (uvarint); bytes in their
//	                  bodies (uvarint)
//	  3  defined      the number of a new consumer (uvarint); the rest is its name
//	  4  removed      the number of a consumer (uvarint)
//	  5  snapshot     the number that the next consumer will get (uvarint); how many there are (uvarint);
//	                  for each its number (uvarint), the length of its name (uvarint), the name, and
//	                  what it is done with, as below
//	6-15 reserved for the references of session queues
//	128- may be passed over by who does not know them
//
// A record of any other kind means that a newer program has written the log. What a consumer is done
// with is: the sequence number up to which it is done with everything (uvarint); the number of
// ranges beyond it (uvarint); for each, the distance of its first number from the last one before
// (uvarint) and its last number as the difference to the first (uvarint).
//
// The checkpoint:
//
//	 0  8  "GWMSGCKP"
//	 8  2  version: 1
//	10 16  identity of the log
//	26     uvarints: segment and offset of the first byte that is not covered; the next sequence
//	       number; the next segment number; the next consumer number; the number of segments
//	       for each segment, uvarints: number; last number in it less that; first sequence number;
//	       last sequence number less the first, plus one; generation; number of consumers that
//	       need something of it; for each of those its number, messages, bytes
//	       the number of consumers; for each its number (uvarint), the length of its name
//	       (uvarint), the name, what it is done with, and uvarints: messages acknowledged, dropped as
//	       oldest, dropped as newest, expired, lost to damage
//	end 4  checksum of everything before
package msglog
