// Package api is the gateway's admin API: HTTP with JSON, described by the OpenAPI 3.1 document
// that it serves at /openapi.json, with errors as application/problem+json (RFC 9457) and
// server-sent events for what goes on. Commands use nothing else; see package client.
//
// The operations lie under /api/v1. Beside them are /healthz (the process lives), /readyz
// (devices can connect) and /metrics. All but the first two need the administrator's role, which
// whoever may open the admin socket has, and whoever has a certificate of the profile admin.
//
// # Design
//
// The package knows services only as the functions in [Services], and the wire only as the types
// of this package, so that neither the registry's rows nor the bridge's internals leak into what
// scripts rely on. The golden OpenAPI document in testdata is that surface: it changes knowingly.
//
// Whoever reads a stream slowly loses messages and is told how many; it never holds up the
// gateway. Every change that was made or refused is reported to Options.Audit.
package api
