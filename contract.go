// Package stockroom holds what belongs to the project as a whole: the contract
// of its interface.
package stockroom

import _ "embed"

// OpenAPI is openapi.yaml, the contract of the interface over HTTP.
//
//go:embed openapi.yaml
var OpenAPI []byte
