package upstreamtest

import (
	"fmt"
	"slices"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// Publish is a message of somebody else at the other side.
func (f *Fake) Publish(m mqtt.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errStopped
	}
	f.retain(m)
	f.enqueue(m)
	return nil
}

// Received returns what the other side took, in order, with repetitions.
func (f *Fake) Received() []mqtt.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

// Misbehave replaces the habits, from the next message on.
func (f *Fake) Misbehave(h Habits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.habits = h
	if f.link != nil {
		signal(f.link.wake)
	}
}

// Runs returns how many connections were accepted.
func (f *Fake) Runs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs
}

// Waiting returns how many messages of the session were not acknowledged by the bridge yet.
func (f *Fake) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue)
}

// Disconnect breaks the connection, if there is one.
func (f *Fake) Disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.link != nil {
		f.link.end(fmt.Errorf("%w: it was told to", bridge.ErrClosed))
	}
}

// Stop breaks the connection and refuses new ones until Start.
func (f *Fake) Stop() {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.Disconnect()
}

// Start undoes Stop.
func (f *Fake) Start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = false
}
