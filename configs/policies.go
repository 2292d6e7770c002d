// Package configs holds what is shipped with the binary: the policies of devices, of the local
// administrator and of things that may do everything. The example configuration lies beside it.
package configs

import "embed"

// Policies holds policies/NAME.json for every policy that comes with the gateway: AWS IoT policy
// documents, explained in policies/README.md.
//
//go:embed policies/*.json
var Policies embed.FS
