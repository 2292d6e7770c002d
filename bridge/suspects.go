package bridge

import "maps"

// maxSuspects is how many messages may be stepped over. If there are more, it is not the
// messages: the rule starts again with the first.
const maxSuspects = 20

// suspects are the messages of one rule that were alone on their way when the upstream closed the
// connection, and how often; see the package comment.
type suspects struct {
	limit   int            // tries until a message is stepped over
	tries   map[uint64]int // by sequence number
	stepped []outgoing     // what was stepped over on this connection and waits for its trial, in order
}

// begin forgets what belongs to the last connection.
func (s *suspects) begin() { s.stepped = nil }

// any reports whether there is a suspicion at all.
func (s *suspects) any() bool { return len(s.tries) > 0 }

// over reports whether the message is stepped over for now, and keeps it for its trial then.
func (s *suspects) over(o outgoing) bool {
	if s.tries[o.seq] < s.limit {
		return false
	}
	s.stepped = append(s.stepped, o)
	return true
}

// blame notes that the upstream closed the connection while the message was alone on its way.
func (s *suspects) blame(seq uint64) {
	if s.tries == nil {
		s.tries = make(map[uint64]int)
	}
	s.tries[seq]++
	over := 0
	for n := range maps.Values(s.tries) {
		if n >= s.limit {
			over++
		}
	}
	if over > maxSuspects {
		clear(s.tries)
	}
}

// trial takes the first message that was stepped over, for another try.
func (s *suspects) trial() (outgoing, bool) {
	if len(s.stepped) == 0 {
		return outgoing{}, false
	}
	o := s.stepped[0]
	s.stepped = s.stepped[1:]
	return o, true
}

// clear forgets a message, because it was taken or given up, and earlier ones that the log no
// longer has.
func (s *suspects) clear(seq uint64) {
	if len(s.tries) == 0 {
		return
	}
	maps.DeleteFunc(s.tries, func(q uint64, n int) bool { return q == seq || q < seq && n < s.limit })
}

// pick moves the message to the front that is best sent before the trial of what was stepped over:
// one of another topic, so that none overtakes an earlier one of its topic.
func (s *suspects) pick(out []outgoing) {
	for i, o := range out {
		if !s.hasTopic(o.topic) && !hasTopic(out[:i], o.topic) {
			copy(out[1:i+1], out[:i])
			out[0] = o
			return
		}
	}
}

func (s *suspects) hasTopic(topic string) bool { return hasTopic(s.stepped, topic) }

func hasTopic(list []outgoing, topic string) bool {
	for _, o := range list {
		if o.topic == topic {
			return true
		}
	}
	return false
}
