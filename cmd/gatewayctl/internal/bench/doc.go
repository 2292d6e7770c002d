// Package bench is a load generator for MQTT brokers: it speaks raw MQTT 3.1.1 to any of them,
// over TCP or mutual TLS, counts every message, and reads from the operating system what the
// broker's process cost.
//
// Each kind of load is one function: [Pairs], [FanOut], [FanIn], [Churn], [Rate], [Idle],
// [Connects], [Offline]. All are bounded in time and in messages, and leave no session behind.
//
// # Design
//
// The generator must cost less than what it measures at full load, so nothing is allocated and nothing is
// encoded per message: a publisher has one buffer with a batch of finished frames and patches
// packet identifiers and numbers into it, a subscriber walks the frames of a large read where
// they are and answers all of them with one write.
//
// Every message carries its publisher and its number. A publisher may be only so many messages
// ahead of its slowest subscriber (and of its acknowledgments), which keeps brokers from dropping
// QoS 0 that they cannot get rid of, and keeps what is measured from being the depth of queues.
// A subscriber that sees a gap, a repetition or a wrong order counts it.
//
// CPU time is the process clock, which is utime + stime of /proc/PID/stat before it is rounded
// to ticks. Figures are of the whole process and over the same span as the messages.
package bench
