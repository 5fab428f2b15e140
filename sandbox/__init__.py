"""Runs the `local` stack's own objects as processes on this machine: no cluster, no cloud.

Pods become process trees, volumes become directories, and a small Blueprint runner stands in for
Kanister. Commands, environment, schedules and Blueprints are read from the stack's graph; nothing
is copied here. It is a way to run our own objects, not Kubernetes: it names what it cannot run.
"""
