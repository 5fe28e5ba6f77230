"""A deployer's needs by AWS's own lists: CloudFormation's registry and IAM's reference, as cfn-lint ships them.

`python -m tests.registry` writes the calls for this product's resources to local/ministack/deployer.json.
"""

from __future__ import annotations

import functools
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cfnlint

from scripts.commands.deploy import nested
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.deployed import deployed
from tests.conftest import ROOT

Json = dict[str, Any]

DEPLOYER = ROOT / "local/ministack/deployer.json"
DATA = Path(cfnlint.__file__).parent / "data"
NO_PROPERTY = "what no property of this type asks for"
# A handler calls these for a property missing in all of our resources; tests/scripts/deploy/test_deployer.py looks.
UNUSED: dict[str, dict[str, list[str]]] = {
    "AWS::ApiGateway::RestApi": {"Policy": ["apigateway:UpdateRestApiPolicy"], "BodyS3Location": ["s3:GetObject"]},
    "AWS::Athena::WorkGroup": {
        "WorkGroupConfiguration.ExecutionRole": ["iam:*", "s3:*"],
        "WorkGroupConfiguration.CustomerContentEncryptionConfiguration": ["kms:*"],
    },
    "AWS::CloudFormation::Stack": {
        NO_PROPERTY: [
            *("iam:PassRole", "cloudformation:*StackPolicy", "cloudformation:GetTemplate"),
            "cloudformation:UpdateTerminationProtection",
        ]
    },
    "AWS::DynamoDB::Table": {
        NO_PROPERTY: [  # of a table; global tables have them
            *("dynamodb:*Replica", "dynamodb:*Item", "dynamodb:Scan", "dynamodb:Query"),
            "iam:CreateServiceLinkedRole",
        ],
        "ContributorInsightsSpecification": ["dynamodb:UpdateContributorInsights"],
        "ImportSourceSpecification": ["dynamodb:*Import*", "logs:*", "s3:*"],
        "KinesisStreamSpecification": [
            *(f"dynamodb:{verb}KinesisStreamingDestination" for verb in ("Enable", "Disable", "Update")),
            "kinesis:*",
        ],
        "ResourcePolicy": ["dynamodb:PutResourcePolicy", "dynamodb:DeleteResourcePolicy"],
        "SSESpecification": ["kms:*"],
    },
    "AWS::Glue::Database": {"DatabaseInput.FederatedDatabase": ["glue:*Connection"]},
    "AWS::Glue::Table": {
        "TableInput.StorageDescriptor.SchemaReference": ["glue:GetSchemaVersion"],
        "OpenTableFormatInput": ["s3:*", "iam:PassRole"],
        "TableInput.TargetTable": ["glue:PassConnection"],
    },
    "AWS::IAM::ManagedPolicy": {
        "Roles": ["iam:*RolePolicy"],
        "Users": ["iam:*UserPolicy"],
        "Groups": ["iam:*GroupPolicy"],
    },
    "AWS::IAM::Policy": {"Users": ["iam:*UserPolicy"], "Groups": ["iam:*GroupPolicy"]},
    "AWS::IAM::Role": {
        "ManagedPolicyArns": ["iam:AttachRolePolicy", "iam:DetachRolePolicy"],
        "PermissionsBoundary": ["iam:*PermissionsBoundary"],
        "Description": ["iam:UpdateRole", "iam:UpdateRoleDescription"],
    },
    "AWS::Lambda::Function": {
        "CapacityProviderConfig": ["lambda:PassCapacityProvider"],
        "Code.S3ObjectVersion": ["s3:GetObjectVersion"],
        "CodeSigningConfigArn": ["lambda:*CodeSigningConfig"],
        "FileSystemConfigs": ["elasticfilesystem:*", "s3files:*"],
        "FunctionScalingConfig": ["lambda:PutFunctionScalingConfig"],
        "Layers": ["lambda:GetLayerVersion"],
        "PublishToLatestPublished": ["lambda:PublishVersion", "lambda:AssociateRuntimeAlias"],
        "RecursiveLoop": ["lambda:PutFunctionRecursionConfig"],
        "ReservedConcurrentExecutions": ["lambda:*FunctionConcurrency"],
        "RuntimeManagementConfig": ["lambda:PutRuntimeManagementConfig"],
        "VpcConfig": ["ec2:*"],
    },
    "AWS::Logs::LogGroup": {
        "BearerTokenAuthenticationEnabled": ["logs:PutBearerTokenAuthentication"],
        "DataProtectionPolicy": [
            *("logs:PutDataProtectionPolicy", "logs:DeleteDataProtectionPolicy", "logs:CreateLogDelivery"),
            *("s3:*", "firehose:*"),
        ],
        "DeletionProtectionEnabled": ["logs:PutLogGroupDeletionProtection"],
        "FieldIndexPolicies": ["logs:PutIndexPolicy", "logs:DeleteIndexPolicy"],
        "ResourcePolicyDocument": ["logs:PutResourcePolicy", "logs:DeleteResourcePolicy"],
    },
    "AWS::S3::Bucket": {
        "AbacStatus": ["s3:PutBucketAbac"],
        "AccelerateConfiguration": ["s3:PutAccelerateConfiguration"],
        "AccessControl": ["s3:PutObjectAcl", "s3:PutBucketAcl", "s3:GetBucketAcl"],
        "AnalyticsConfigurations": ["s3:PutAnalyticsConfiguration", "s3:DeleteBucketAnalyticsConfiguration"],
        "CorsConfiguration": ["s3:PutBucketCORS", "s3:DeleteBucketCors"],
        "IntelligentTieringConfigurations": ["s3:PutIntelligentTieringConfiguration"],
        "InventoryConfigurations": ["s3:PutInventoryConfiguration"],
        "LoggingConfiguration": ["s3:PutBucketLogging"],
        "MetadataTableConfiguration": [
            *("s3tables:*", "s3:CreateBucketMetadata*", "s3:UpdateBucketMetadata*", "s3:DeleteBucketMetadata*"),
            "s3:DeleteObject",
        ],
        "MetricsConfigurations": ["s3:PutMetricsConfiguration", "s3:DeleteBucketMetricsConfiguration"],
        "NotificationConfiguration": ["s3:PutBucketNotification"],
        "ObjectLockConfiguration": ["s3:*ObjectLockConfiguration"],
        "ReplicationConfiguration": [
            *("s3:PutReplicationConfiguration", "s3:PutBucketReplication", "s3:DeleteBucketReplication"),
            "iam:PassRole",
        ],
        "WebsiteConfiguration": ["s3:PutBucketWebsite", "s3:DeleteBucketWebsite"],
    },
    "AWS::SNS::Subscription": {"SubscriptionRoleArn": ["iam:*"]},
    "AWS::SNS::Topic": {
        "DataProtectionPolicy": ["sns:PutDataProtectionPolicy"],
        "DeliveryStatusLogging": ["iam:*"],
        "Subscription": ["sns:Subscribe", "sns:Unsubscribe"],
    },
    "AWS::SecretsManager::Secret": {
        "GenerateSecretString": ["secretsmanager:GetRandomPassword"],
        "ReplicaRegions": ["secretsmanager:ReplicateSecretToRegions", "secretsmanager:RemoveRegionsFromReplication"],
        "SecretString": ["secretsmanager:GetSecretValue"],
    },
    "AWS::StepFunctions::StateMachine": {"DefinitionS3Location": ["s3:*"]},
}


@functools.cache
def resources() -> list[tuple[str, str, Json]]:
    """Each resource of the template as it is deployed and of the nested stacks: its id, its type, its properties."""
    return [
        (logical_id, resource["Type"], resource.get("Properties", {}))
        for template in [templates.load(deployed()), *(stack.template for stack in nested.read())]
        for logical_id, resource in template["Resources"].items()
    ]


@functools.cache
def schemas() -> dict[str, Json]:
    """The registry's schema of each type of this product's resources."""
    found = (json.loads(path.read_text()) for path in (DATA / "schemas" / "resources").glob("*.json"))
    types = {resource_type for _, resource_type, _ in resources()}
    return {schema["typeName"]: schema for schema in found if schema["typeName"] in types}


@functools.cache
def actions_of_iam() -> dict[str, dict[str, Any]]:
    """IAM's reference of actions, all in lower case, with `Resources` if they may be limited to resources."""
    reference = json.loads((DATA / "AdditionalSpecs" / "Policies.json").read_text())
    return {
        f"{service}:{action}".lower(): about
        for service, described in reference.items()
        for action, about in described["Actions"].items()
    }


def needed() -> dict[str, dict[str, list[str]]]:
    """The actions to create, update and delete a resource, by type and operation."""
    operations = ("create", "update", "delete")
    return {
        resource_type: {operation: _actions(schema, operation) for operation in operations}
        for resource_type, schema in sorted(schemas().items())
    }


def _actions(schema: Json, operation: str) -> list[str]:
    handlers, tagging = schema["handlers"], schema.get("tagging", {})
    named = set(handlers.get(operation, {}).get("permissions", []))
    if operation == "update" and not named:
        return []  # It is replaced.
    if operation != "delete":
        # Afterwards CloudFormation reads the attributes for other resources.
        named |= set(handlers.get("read", {}).get("permissions", []))
    # Our resources have no tags; some types are given tags by CloudFormation itself.
    tags = set() if tagging.get("cloudFormationSystemTags") else {one for one in named if "tag" in one.lower()}
    tags -= set(handlers.get("read", {}).get("permissions", []))
    unused = [pattern for patterns in UNUSED.get(schema["typeName"], {}).values() for pattern in patterns]
    return sorted(
        action
        for action in named - tags
        if action.lower() in actions_of_iam() and not any(fnmatchcase(action, pattern) for pattern in unused)
    )


if __name__ == "__main__":
    DEPLOYER.write_text(json.dumps(needed(), indent=1) + "\n")
