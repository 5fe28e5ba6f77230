"""Prints the template as scripts/deploy.sh deploys it, for the default parameters: the linters' input.

PYTHONPATH=lambda python -m scripts.commands.deploy.deployed
"""

from __future__ import annotations

from scripts.commands.deploy import nested, template


def deployed() -> str:
    """The whole template: nested stacks and the renamed deployment."""
    text = nested.insert(
        template.TEMPLATE.read_text(),
        nested.read(),
        lambda stack: f"{stack.name}.yaml",
    )
    artifacts = {"ArtifactBucket": "artifacts", "TransformCodeKey": "lambda.zip"}
    parsed = template.load(text)
    return template.render(text, parsed, template.effective_parameters(parsed, {}, artifacts))


if __name__ == "__main__":
    print(deployed(), end="")
