"""The rules that every stack of Holdfast keeps, as a CrossGuard pack and as plain functions.

``pulumi preview --policy-pack policy`` runs them in the engine; ``policy.check.violations`` runs
the same ones over a graph that ``infra.plan.graph.collect`` made, with no engine and no cloud.
"""
