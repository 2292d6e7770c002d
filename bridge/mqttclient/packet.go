package mqttclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"gatewayctl/broker/mqtt"
)

// Control packet types in the upper half of the first byte (MQTT 3.1.1 §2.2.1).
const (
	typePublish    = 3
	typePuback     = 4
	typeSuback     = 9
	typePingresp   = 13
	maxRemaining   = 268435455 // [MQTT-2.2.3]
	maxControl     = 64 << 10  // more than any packet but PUBLISH needs here
	flagRetain     = 0x01
	flagQoS1       = 0x02
	qosMask        = 0x06
	pubackFirst    = typePuback << 4
	publishFirst   = typePublish << 4
	pubackLenBytes = 2
)

// publishSize returns the remaining length of a PUBLISH (§3.3).
func publishSize(m mqtt.Message) int {
	n := 2 + len(m.Topic) + len(m.Payload)
	if m.QoS > 0 {
		n += 2
	}
	return n
}

// appendPublish appends the PUBLISH of m; id counts for QoS 1 only. The bridge never sets DUP: to
// the broker each connection's packets are new, as the client has no session state of its own.
func appendPublish(b []byte, m mqtt.Message, id uint16) []byte {
	first := byte(publishFirst)
	if m.Retain {
		first |= flagRetain
	}
	if m.QoS > 0 {
		first |= flagQoS1
	}
	b = append(b, first)
	b = binary.AppendUvarint(b, uint64(publishSize(m))) // §2.2.3 is unsigned LEB128
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Topic)))
	b = append(b, m.Topic...)
	if m.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return append(b, m.Payload...)
}

func appendPuback(b []byte, id uint16) []byte {
	return append(b, pubackFirst, pubackLenBytes, byte(id>>8), byte(id))
}

var errLength = errors.New("malformed packet: remaining length of more than four bytes")

// readHeader reads the first byte and the remaining length of a packet (§2.2).
func readHeader(r *bufio.Reader) (first byte, remaining int, err error) {
	if first, err = r.ReadByte(); err != nil {
		return 0, 0, err
	}
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, 0, err
		}
		remaining |= int(b&0x7F) << shift
		if b < 0x80 {
			return first, remaining, nil
		}
	}
	return 0, 0, errLength
}

// connackText says what a CONNACK return code means and what to do (§3.2.2.3).
func connackText(code byte, clientID string) string {
	switch code {
	case 1:
		return "it does not speak MQTT 3.1.1 (return code 1)"
	case 2:
		return fmt.Sprintf("it does not allow the client id %q (return code 2): set client_id", clientID)
	case 3:
		return "it is not available now (return code 3)"
	case 4:
		return "the user name or the password is wrong (return code 4): check username and password_file"
	case 5:
		return fmt.Sprintf("not authorized (return code 5): check cert, username, password_file, and what the broker allows the client id %q", clientID)
	}
	return fmt.Sprintf("return code %d", code)
}
