# SPDX-License-Identifier: Apache-2.0
"""Any OpenAI-compatible endpoint on all tasks whose data are on this machine.

OPENAI_API_KEY=... python -m nlp.evaluate --config=configs/nlp/endpoint.py --workdir=runs/endpoint \
    --config.limit=100 --dry_run
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "tasks": ("available",),
            "policy": "strict",
            "resamples": 1000,
            "limit": 100,
            "models": (
                {
                    "name": "endpoint",
                    "model": "gpt-4o-mini",
                    "base_url": "https://api.openai.com/v1",
                    "api_key_env": "OPENAI_API_KEY",
                    "concurrency": 16,
                    "requests_per_minute": 400.0,
                    "price_prompt": "0.15",
                    "price_completion": "0.60",
                    "budget": "5",
                },
            ),
        }
    )
