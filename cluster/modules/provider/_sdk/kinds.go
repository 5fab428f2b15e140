// In the place of a file of Pulumi's Go SDK, which the provider's component resources use
// (yaml.v2.ConfigGroup and the like). There each built-in kind has a branch with a type of its own:
// 60 packages, half of what would be built. What is registered is the same, with a type for all.
package v2

import (
	"strings"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// IsListKind says whether this is the list of a built-in kind.
func IsListKind(apiVersion, kind string) bool {
	group, _, found := strings.Cut(apiVersion, "/")
	builtIn := !found || !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io")
	return builtIn && strings.HasSuffix(kind, "List")
}

// RegisterResource registers one object of a kind that is known when the program runs.
func RegisterResource(ctx *pulumi.Context, apiVersion, kind, name string, props pulumi.Input,
	opts ...pulumi.ResourceOption) (pulumi.CustomResource, error) {
	if !strings.Contains(apiVersion, "/") {
		apiVersion = "core/" + apiVersion
	}
	var res apiextensions.CustomResource
	token := "kubernetes:" + apiVersion + ":" + kind
	if err := ctx.RegisterResource(token, name, props, &res, opts...); err != nil {
		return nil, err
	}
	return &res, nil
}
