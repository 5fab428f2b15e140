// The Kubernetes provider of Pulumi, served from its module.
//
// The module's own command embeds files that its release generates and the module does not carry.
// What it carries is the same schema without a version, which is put in here.
package main

import (
	"bytes"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"

	_ "embed"
)

//go:embed schema.json
var schema []byte

//go:embed terraform-mapping.json
var mapping []byte

// Set when it is built.
var version string

func main() {
	versioned := bytes.Replace(schema, []byte("{"), []byte("{\"version\": \""+version+"\","), 1)
	provider.Serve("kubernetes", version, versioned, mapping)
}
