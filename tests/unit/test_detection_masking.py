"""What is a secret, by name and by look, and what only sounds like one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from spooler.json_safe import json_safe
from spooler.masking import MASK, hides, mask_text

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
image_key text_key label_key monitor_key author authors author_name patience hidden_size
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


HEX40 = "4f1c2b7a9d8e4f1c2b7a9d8e4f1c2b7a9d8e4f1c"
AWS40 = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

# What configurations and environments of real jobs hold.
SECRETS: list[tuple[str, Any, str]] = [
    ("pass", "hunter2xyz", "hunter2xyz"),
    ("pw", "hunter2xyz", "hunter2xyz"),
    ("PASS", "hunter2xyz", "hunter2xyz"),
    ("passcode", 482913, "482913"),
    ("mysql_pass", "hunter2xyz", "hunter2xyz"),
    ("redis_pwd", "hunter2xyz", "hunter2xyz"),
    ("Passwort", "hunter2xyz", "hunter2xyz"),
    ("пароль", "hunter2xyz", "hunter2xyz"),
    ("数据库密码", "hunter2xyz", "hunter2xyz"),
    ("contraseña", "hunter2xyz", "hunter2xyz"),
    ("mot_de_passe", "hunter2xyz", "hunter2xyz"),
    ("ak", "LTAI5tExample", "LTAI5tExample"),
    ("sk", "LTAI5tExample", "LTAI5tExample"),
    ("SK", "LTAI5tExample", "LTAI5tExample"),
    ("otp", "482913", "482913"),
    ("api_key", 123456789, "123456789"),
    ("license_key", 20241234567, "20241234567"),
    ("tokens", ["a1b2c3d4e5f6a7b8c9d0", "b1"], "a1b2c3d4e5f6"),
    ("api_tokens", {"a": "xyz-abc"}, "xyz-abc"),
    ("anything", ["API_KEY", "abcdef"], "abcdef"),
    ("anything", [["hf_token", "abcdef"], ["lr", "1"]], "abcdef"),
    ("anything", ["WANDB_API_KEY=abcdef", "LR=1"], "abcdef"),
    ("anything", ["MY_SECRET=abcdef"], "abcdef"),
    ("anything", ["DB_PASS=abcdef"], "abcdef"),
    ("anything", "DefaultEndpointsProtocol=https;AccountKey=abc123==;x=1", "abc123"),
    ("anything", "SharedAccessKey=abc123=", "abc123"),
    ("anything", "user: me\ntoken: abcdefgh", "abcdefgh"),
    ("anything", "hub:\n  token: 'abcdefgh'\n", "abcdefgh"),
    ("anything", '{"password": "abcdefgh"}', "abcdefgh"),
    ("anything", "{'client_secret': 'abcdefgh'}", "abcdefgh"),
    ("anything", "machine api.wandb.ai login user password abcdefgh", "abcdefgh"),
    ("anything", "machine api.wandb.ai\n  login user\n  password abcdefgh\n", "abcdefgh"),
    ("bot", "123456789:AAExampleExampleExampleExampleExam", "AAExample"),
    ("crypt", "3jOvW8JxkB0jzkK2Yl8pq5sJ1mZ0aQeR7tUvWxYzA1B=", "3jOvW8"),
    ("vault", "hvs.CAESIJexampleexampleexample", "CAESIJ"),
    ("workspace", "dapi0123456789abcdef0123456789abcdef", "dapi0123"),
    ("replicate", "r8_0123456789abcdefghijABCDEFGHIJ012345", "r8_0123"),
    ("groq", "gsk_0123456789abcdefghijABCDEFGHIJ012345", "gsk_0123"),
    ("org", "api_org_0123456789abcdefghijABCDEFGHIJ01", "api_org_0123"),
    ("xai", "xai-0123456789abcdefghijABCDEFGHIJ012345", "xai-0123"),
    ("docker", "dckr_pat_0123456789abcdefghijABC", "dckr_pat_0123"),
    ("gcp", "ya29.a0Example-0123456789abcdef", "a0Example"),
    ("wandb", HEX40, HEX40),
    ("setup", HEX40, HEX40),
    ("aws", AWS40, AWS40),
    ("s3_setup", AWS40, AWS40),
    ("env", {"name": "HF_TOKEN", "value": "abcdef"}, "abcdef"),
    ("env", {"key": "DB_PASSWORD", "value": "abcdef"}, "abcdef"),
    ("cmd", "curl -u me --password abcdefgh http://x", "abcdefgh"),
    ("cmd", "export HF_TOKEN=abcdefgh && python train.py", "abcdefgh"),
    ("git_remote", "https://oauth2:abcdefgh@gitlab.com/a/b.git", "abcdefgh"),
    ("dsn", "abcdefgh", "abcdefgh"),
]

HARMLESS: list[tuple[str, Any]] = [
    ("commit", HEX40),
    ("git_sha", HEX40),
    ("model_revision", HEX40),
    ("data_hash", HEX40),
    ("checksum", AWS40),
    ("skip", "abcdefgh"),
    ("sk_learn", "abcdefgh"),
    ("peak", "abcdefgh"),
    ("tokens", ["hello", "world", "internationalization"]),
    ("tokens", 512),
    ("max_tokens", 4096000),
    ("num_key_value_heads", 128000),
    ("key", 1234567),
    ("betas", [0.9, 0.95]),
    ("pair", ["train", "validation"]),
    ("note", "loss per token: 3.25, key: the loss"),
    ("note", "lr: 0.1, warmup: 100, pad_token: <pad>"),
    ("note", "pass: 3 of 4"),
    ("time", "12:30:00"),
    ("args", "--key-size=64 --tokens=512"),
    ("image", "registry.example/a/b:1.2.3"),
    ("модель", "большая"),
]


@pytest.mark.parametrize(("name", "value", "secret"), SECRETS)
def test_a_secret_of_a_real_configuration_is_hidden(name: str, value: Any, secret: str) -> None:
    assert secret not in str(json_safe({name: value}, hide_by_key=True))


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_a_setting_of_a_real_configuration_is_seen(name: str, value: Any) -> None:
    assert MASK not in str(json_safe({name: value}, hide_by_key=True))


@pytest.mark.parametrize(
    "piece",
    [
        "a=",
        "a: ",
        "login a password ",
        "1:AA",
        "hvs.",
        "sk-",
        "-eyJ",
        "a://",
        "a:b@ ",
        "=:token ",
        "--a ",
        "u:p@://",
        "-----BEGIN KEY-----",
    ],
)
def test_no_text_makes_masking_slow(piece: str) -> None:
    started = time.thread_time()
    mask_text(piece * (4096 // len(piece)))
    assert time.thread_time() - started < 0.5
