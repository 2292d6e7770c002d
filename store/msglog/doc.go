// Package msglog keeps messages until everybody who needs them has them: an append-only,
// checksummed log in segment files, with group commit and consumers whose positions survive.
package msglog
