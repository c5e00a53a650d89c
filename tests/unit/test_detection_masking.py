"""What is a secret, by name and by look, and what only sounds like one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from spooler.detection.json_safe import json_safe
from spooler.detection.masking import MASK, hides, mask_text

SECRET_NAMES = """
token api_key apiKey API-KEY APIKEY access_key accessKeyId secret client_secret secret_key
aws_secret_access_key password db_password passwd PASSWD user.pwd db_pass credential credentials
google_application_credentials private_key ssh_key auth basic_auth authorization bearer
bearer_token cookie cookies session_cookie hf_token hfToken HF_TOKEN HUGGINGFACE_HUB_TOKEN
access_token auth_token github_token api_tokens refresh_token wandb_key wandb_api_key openai_key
encryption_key jwt sentry_dsn passphrase registry_token connection_string mytoken_secret
"""

HARMLESS_NAMES = """
tokenizer tokenizer_name tokenizer_key max_tokens num_tokens max_new_tokens tokens_per_batch
token_type_ids pad_token eos_token bos_token unk_token mask_token image_token eos_token_id
moe_token_dispatcher_type token_drop_policy vocab_key key_size key_dim num_keys query_key
image_key text_key label_key monitor_key author authors author_name patience hidden_size pass
forward_pass keyboard monkey secretary path_pattern optimizer lr batch_size keys cookiecutter
authority passthrough bypass compass token_embedding per_token
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_a_text_under_a_secret_name_is_hidden(name: str) -> None:
    assert hides(name, "value")


@pytest.mark.parametrize("name", HARMLESS_NAMES.split())
def test_a_name_that_only_sounds_secret_hides_nothing(name: str) -> None:
    assert not hides(name, "value")


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("password", 12345678, True),
        ("password", None, False),
        ("password", "", False),
        ("use_auth", True, False),
        ("token", 50256, False),
        ("token", "abc", True),
        ("auth", {"user": "x"}, True),
        ("credentials", ["x"], True),
        ("lookup_key", "A1b2C3d4E5f6A1b2C3d4E5f6", True),
        ("lookup_key", "train/images", False),
    ],
)
def test_the_value_decides_where_the_name_leaves_it_open(
    name: str, value: object, hidden: bool
) -> None:
    assert hides(name, value) is hidden


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abc123def456ghi789",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0123456789",
        "glpat-abcdefghij0123456789",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "xoxb-1234567890-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r",
        "wandb_v1_abcdefghijklmnopqrstuvwx",
        "nvapi-abcdefghijklmnop0123",
    ],
)
def test_a_text_in_the_form_of_a_credential_is_masked(secret: str) -> None:
    assert mask_text(f"see {secret} there") == f"see {MASK} there" or (
        secret.startswith("-----BEGIN OPENSSH") and mask_text(secret) == MASK
    )


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pw@host/x", "https://[masked]@host/x"),
        ("https://t0k3n@github.com/a/b.git", "https://[masked]@github.com/a/b.git"),
        ("postgres://u:p@ss@db:5432/x", "postgres://[masked]@db:5432/x"),
        ("postgres://u:p/w@db/x", "postgres://[masked]@db/x"),
        ("https://h/x?token=abc&n=1", "https://h/x?token=[masked]&n=1"),
        ("https://b/x?X-Amz-Signature=ab12", "https://b/x?X-Amz-Signature=[masked]"),
        ("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/[masked]"),
        ("Authorization: Bearer abc.def123", "Authorization: Bearer [masked]"),
        ("run --api-key abc --lr 1", "run --api-key [masked] --lr 1"),
        ("run --hf_token=abc --lr=1", "run --hf_token=[masked] --lr=1"),
        ("WANDB_API_KEY=abc123", "WANDB_API_KEY=[masked]"),
        ("db_password: hunter2", "db_password: [masked]"),
    ],
)
def test_only_the_secret_part_of_a_text_is_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "meta-llama/Llama-3-8B",
        "https://host:8080/path/@scope/pkg",
        "git@github.com:org/repo.git",
        "s3://bucket/data/train",
        "task-force-learning-rate-warmup-2",
        "basic training",
        "--pad-token <pad> --max-tokens 12",
        "4f1c2b7a9d8e4f1c2b7a9d8e4f1c2b7a9d8e4f1c",
        "lr=0.1 tokens=512",
    ],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"argv": ["--api-key", "abc", "--lr", "1"]}, ["--api-key", MASK, "--lr", "1"]),
        ({"env": {"name": "API_KEY", "value": "abc"}}, {"name": "API_KEY", "value": MASK}),
        ({"env": {"name": "LR", "value": "abc"}}, {"name": "LR", "value": "abc"}),
        ({"db": {"credentials": {"a": ["b"]}}}, {"credentials": MASK}),
    ],
)
def test_a_secret_named_by_its_neighbour_is_masked(config: dict[str, Any], expected: Any) -> None:
    (value,) = json_safe(config, hide_by_key=True).values()
    assert value == expected


@pytest.mark.parametrize(
    "piece", ["sk-", "-eyJ", "a://", "a:b@ ", "=:token ", "--a ", "u:p@://", "-----BEGIN KEY-----"]
)
def test_no_text_makes_masking_slow(piece: str) -> None:
    started = time.perf_counter()
    mask_text(piece * (4096 // len(piece)))
    assert time.perf_counter() - started < 0.5
