// Package acl decides what a connection may do, by AWS IoT policy documents. It is pure: it does
// no I/O and keeps no state.
//
// [Parse] checks a document, [Compile] joins those of a principal, [Set.Bind] prepares them for
// one connection, and the [Bound] answers for MQTT names. "Reference" in this package means the
// project's notes on AWS IoT; what the cloud leaves open is decided there, and below.
//
// # Design
//
//   - A pattern of six parts is matched part by part: a star for region or account cannot reach
//     into the resource. Written short, it is one text.
//   - Two spellings of a condition key are one key.
//   - A key with an empty list is as good as absent. For iot:ConnectAttributes that is a clean
//     connect without a will.
//   - A variable with an empty value, or with several, is absent: an empty thing name must not
//     turn a prefix into everybody's.
//   - Numbers, truth values and networks are checked when a document is parsed; a value of the
//     context that is none passes no positive test and every negated one.
//   - Date and Binary operators are unknown: no condition key has such a value.
package acl
