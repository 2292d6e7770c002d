package mqtt

import "fmt"

// A ReasonCode is the result of an operation (MQTT 5.0 §2.4). Codes from 0x80 are failures.
type ReasonCode byte

// The reason codes of MQTT 5.0 §2.4. Three names share 0x00; which one is meant depends on the
// packet: DISCONNECT, SUBACK, or any other.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWillMessage           ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// Failed reports whether r is a failure (MQTT 5.0 §2.4).
func (r ReasonCode) Failed() bool { return r >= 0x80 }

// String returns the standard's name of r in lower case but for proper names, such as
// "not authorized"; 0x00 is "success". A value that the standard does not define prints as
// "reason code 0x..".
func (r ReasonCode) String() string {
	switch r {
	case Success:
		return "success"
	case GrantedQoS1:
		return "granted QoS 1"
	case GrantedQoS2:
		return "granted QoS 2"
	case DisconnectWithWillMessage:
		return "disconnect with will message"
	case NoMatchingSubscribers:
		return "no matching subscribers"
	case NoSubscriptionExisted:
		return "no subscription existed"
	case ContinueAuthentication:
		return "continue authentication"
	case ReAuthenticate:
		return "re-authenticate"
	case UnspecifiedError:
		return "unspecified error"
	case MalformedPacket:
		return "malformed packet"
	case ProtocolError:
		return "protocol error"
	case ImplementationSpecificError:
		return "implementation specific error"
	case UnsupportedProtocolVersion:
		return "unsupported protocol version"
	case ClientIdentifierNotValid:
		return "client identifier not valid"
	case BadUserNameOrPassword:
		return "bad user name or password"
	case NotAuthorized:
		return "not authorized"
	case ServerUnavailable:
		return "server unavailable"
	case ServerBusy:
		return "server busy"
	case Banned:
		return "banned"
	case ServerShuttingDown:
		return "server shutting down"
	case BadAuthenticationMethod:
		return "bad authentication method"
	case KeepAliveTimeout:
		return "keep alive timeout"
	case SessionTakenOver:
		return "session taken over"
	case TopicFilterInvalid:
		return "topic filter invalid"
	case TopicNameInvalid:
		return "topic name invalid"
	case PacketIdentifierInUse:
		return "packet identifier in use"
	case PacketIdentifierNotFound:
		return "packet identifier not found"
	case ReceiveMaximumExceeded:
		return "receive maximum exceeded"
	case TopicAliasInvalid:
		return "topic alias invalid"
	case PacketTooLarge:
		return "packet too large"
	case MessageRateTooHigh:
		return "message rate too high"
	case QuotaExceeded:
		return "quota exceeded"
	case AdministrativeAction:
		return "administrative action"
	case PayloadFormatInvalid:
		return "payload format invalid"
	case RetainNotSupported:
		return "retain not supported"
	case QoSNotSupported:
		return "QoS not supported"
	case UseAnotherServer:
		return "use another server"
	case ServerMoved:
		return "server moved"
	case SharedSubscriptionsNotSupported:
		return "shared subscriptions not supported"
	case ConnectionRateExceeded:
		return "connection rate exceeded"
	case MaximumConnectTime:
		return "maximum connect time"
	case SubscriptionIdentifiersNotSupported:
		return "subscription identifiers not supported"
	case WildcardSubscriptionsNotSupported:
		return "wildcard subscriptions not supported"
	}
	return fmt.Sprintf("reason code 0x%02X", byte(r))
}

// A ConnectReturnCode is the result of a connection attempt in MQTT 3.1.1 (§3.2.2.3).
type ConnectReturnCode byte

// The return codes of MQTT 3.1.1 §3.2.2.3.
const (
	ConnectAccepted                    ConnectReturnCode = 0
	ConnectUnacceptableProtocolVersion ConnectReturnCode = 1
	ConnectIdentifierRejected          ConnectReturnCode = 2
	ConnectServerUnavailable           ConnectReturnCode = 3
	ConnectBadUserNameOrPassword       ConnectReturnCode = 4
	ConnectNotAuthorized               ConnectReturnCode = 5
)

// ConnectReturnCode translates r for a CONNACK of MQTT 3.1.1. It returns false when no return
// code applies: the connection is then closed without a CONNACK (MQTT 3.1.1 [MQTT-3.2.2-6]).
func (r ReasonCode) ConnectReturnCode() (ConnectReturnCode, bool) {
	switch r {
	case Success:
		return ConnectAccepted, true
	case UnsupportedProtocolVersion:
		return ConnectUnacceptableProtocolVersion, true
	case ClientIdentifierNotValid:
		return ConnectIdentifierRejected, true
	case ServerUnavailable, ServerBusy, ServerShuttingDown, QuotaExceeded, UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return ConnectServerUnavailable, true
	case BadUserNameOrPassword, BadAuthenticationMethod:
		return ConnectBadUserNameOrPassword, true
	case NotAuthorized, Banned:
		return ConnectNotAuthorized, true
	}
	return 0, false
}

// SubscribeReturnCode translates r for a SUBACK of MQTT 3.1.1 (§3.9.3): the granted QoS, or 0x80
// for every failure.
func (r ReasonCode) SubscribeReturnCode() byte {
	if r.Failed() {
		return 0x80
	}
	return byte(r)
}
