"""The Pulumi program: settings in, resources and outputs out; one module per layer."""
