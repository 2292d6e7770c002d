// Package discovery announces the gateway by multicast DNS and finds what else announces itself:
// RFC 6762 for the packets, RFC 6763 (DNS-SD) for what is in them. An [Announcer] tells, [Scan] and
// [Watch] find. They work side by side, in one process or several, and beside an Avahi on the same
// machine.
//
// # Trust
//
// Anyone on a network may say anything there. [Found] is sanitized and bounded, and informs people;
// nothing may be granted for what is in it. Above all, the fingerprint of a CA that a gateway
// announces (TXT key [KeyFingerprint]) is no trust anchor: whoever can announce another gateway can
// announce another fingerprint with it. It helps a person who compares it with the one that their
// gateway's own screen shows, and nobody else. For the same reason [Found.DeviceID] is a hint, and
// never an identity.
//
// # Design
//
// A responder and a browser, each a state machine that is told the time and the packets and returns
// packets (engine), are driven by one loop (network.run) over one socket for each interface and
// address family. The sockets are bound to the group's address: whoever binds the wildcard takes the
// unicast packets of the other responders on the machine. Interfaces are listed every two seconds.
//
// The machine's own host name needs care. Avahi announces it, with the addresses that it knows, and
// two responders that announce a name with different data are a conflict by RFC 6762 §9, in which
// Avahi renames the machine: with an address of ours that it did not know, hub.local became
// hub-2.local (TestBesideAvahi, without cession). So whenever another responder on this machine says
// or wants our host name, we leave its addresses alone, and point to the name only. An Avahi that
// starts in the few seconds in which we announce other addresses than it has still finds its name
// taken: where both run as services, ours should start after it.
//
// hashicorp/mdns 1.0.7 gives the record set of a service (Service.zone). Its server and its client
// are not used, because TestLibrary shows against Avahi that they do not keep what this package
// promises, and stands as the test of that:
//
//   - Of three instances that answer in one packet, Query finds none or one: it looks at the last
//     record of a packet only, to see whether something is complete.
//   - Query fails on a machine without a route to 224.0.0.0/4, such as one without an uplink.
//   - Query ends with its timeout, and has no cache: no changes, no expiry, no goodbye. It asks
//     over one interface. Names and texts come with the escapes of a zone file.
//   - Server always answers by unicast, from a socket on the wildcard. Avahi on the same machine never
//     hears of its services, and may lose unicast packets of its own to it.
//   - Server says nothing unasked, no goodbye either, and does not probe: a new address is known when
//     the old one's time to live is over (120 s), and two gateways of one name are not told apart.
//     Records have no cache-flush bit, names are compared with regard to case, known answers are
//     ignored, answers to plain DNS queries lack their question, and a truncated query gets none.
//
// Not done: a responder that answers queries by unicast only (such as the library's) is not found,
// because its answers go to one process of the machine, usually Avahi. Publishing through Avahi's
// D-Bus interface is not needed for any of the promises above.
package discovery
