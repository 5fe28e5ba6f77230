"""Prints the template as scripts/deploy.sh deploys it, for the default parameters: what the linters read.

python -m scripts.commands.deployed
"""

from __future__ import annotations

from scripts.commands import nested, queries, template


def deployed() -> str:
    """The whole template: nested stacks, saved queries and the renamed deployment."""
    text = nested.insert(
        template.TEMPLATE.read_text(),
        nested.read(),
        lambda stack: f"https://artifacts.s3.us-east-1.amazonaws.com/{stack.name}.yaml",
    )
    artifacts = {"ArtifactBucket": "artifacts", "TransformCodeKey": "lambda.zip"}
    parameters = template.effective_parameters(template.load(text), {}, artifacts)
    return template.render(text, parameters, queries.read())


if __name__ == "__main__":
    print(deployed(), end="")
