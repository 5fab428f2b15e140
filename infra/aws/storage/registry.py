"""Repositories for the stack's images."""

import json

import pulumi
import pulumi_aws as aws

from infra.settings.bucket import Registry as RegistrySettings

#: Days after which an image that lost its tag goes.
UNTAGGED_DAYS = 14


class Registry(pulumi.ComponentResource):
    """ECR repositories: a tag never moves, each image is scanned when it is pushed. ECR removes no
    repository that holds images, unless it is told to.

    Produces: for each name a Repository and its LifecyclePolicy.
    """

    urls: dict[str, pulumi.Output[str]]
    """Where to push, by repository."""

    def __init__(
        self,
        name: str,
        settings: RegistrySettings,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: which repositories.
            key: encrypts the images.
            opts: the provider.
            keep: whether destroy must leave the images, which the settings name by digest.
        """
        super().__init__("holdfast:registry:Registry", name, {}, opts)
        kept = pulumi.ResourceOptions(parent=self, protect=keep, retain_on_delete=keep)
        self.urls = {}
        for repository in settings.repositories:
            short = repository.replace("/", "-")
            made = aws.ecr.Repository(
                f"{name}-{short}",
                name=repository,
                image_tag_mutability="IMMUTABLE",
                image_scanning_configuration={"scan_on_push": True},
                encryption_configurations=[{"encryption_type": "KMS", "kms_key": key.arn}],
                force_delete=not keep,
                opts=kept,
            )
            aws.ecr.LifecyclePolicy(
                f"{name}-{short}",
                repository=made.name,
                policy=json.dumps(_lifecycle(settings.keep)),
                opts=kept,
            )
            self.urls[repository] = made.repository_url
        self.register_outputs({"urls": self.urls})


def _lifecycle(keep: int) -> dict:
    def rule(priority: int, what: str, selection: dict) -> dict:
        return {
            "rulePriority": priority,
            "description": what,
            "selection": selection,
            "action": {"type": "expire"},
        }

    untagged = {
        "tagStatus": "untagged",
        "countType": "sinceImagePushed",
        "countUnit": "days",
        "countNumber": UNTAGGED_DAYS,
    }
    newest = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": keep}
    return {
        "rules": [
            rule(1, f"without a tag for {UNTAGGED_DAYS} days", untagged),
            rule(2, f"all but the newest {keep}", newest),
        ]
    }
