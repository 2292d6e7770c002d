// Package rpc calls methods of devices: frames as Mongoose OS and Shelly Gen2+ speak them, a
// [Router] that knows which device can be called, and the [Transport] that carries one call.
//
// # Design
//
// A device is a small machine that may answer twice, late, with another call's id or with noise.
// Whatever it does harms only the call that it answers: an answer is matched by the device that
// sent it and by a random id, the first match wins, and everything else is dropped. A transport
// moves frames and nothing more; who may be called, how many calls a device gets at once and
// how long anyone waits is decided once, in the Router.
package rpc
