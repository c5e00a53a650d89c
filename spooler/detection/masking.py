"""Decides what is a secret: by the name of a setting, and by the look of a text; pure.

Rules:
- A name is read as words (``hfToken``, ``HF-TOKEN`` and ``hf_token`` are one), so that
  "tokenizer", "max_tokens", "vocab_key" and "author" are no secrets.
- A strong word ("password") hides any value but a truth value, null or an empty text. A weak word
  ("token", "key") needs a companion or the last place, and hides texts and containers, not
  numbers: ``pad_token: 0`` is a setting.
- A text is masked where it has the form of a known credential, whatever its name.
- Hiding too much costs one value of evidence; hiding too little publishes a credential. Where a
  name is undecided the longer, random-looking value is hidden.
"""

from __future__ import annotations

import re
from itertools import pairwise

MASK = "[masked]"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STRONG = re.compile(
    r"passwd|password|passphrase|secret(?!ar)|credential|apikey|accesskey|privatekey|authkey"
    r"|signingkey|encryptionkey|connectionstring|bearer|accesstoken|authtoken|refreshtoken"
)
_STRONG_WORDS = frozenset({"pwd", "creds", "cookie", "cookies", "authorization", "dsn", "jwt"})
_ENDINGS = frozenset({"auth", "pat"})
_TOKEN_OWNERS = _words(
    """
    access api app auth bearer bot comet csrf deploy github gitlab hf hub huggingface id jwt
    login ngc oauth personal pat push read refresh registry security service session slack
    swanlab telegram user vault wandb write
    """
)
_TOKEN_KINDS = _words(
    """
    additional any audio begin bos cls each end eos extra eot eod first image last mask mean new
    next num pad padding per placeholder prefix prompt sep special start stop suffix think unk
    video vision word
    """
)
_KEY_OWNERS = _words(
    """
    access account aes anthropic api app auth aws azure client comet consumer dashscope deepseek
    deploy encryption gemini google hf hmac host license master neptune ngc openai private rsa
    sas secret service session shared signing ssh ssl storage subscription swanlab tls user
    wandb
    """
)
_PASS_OWNERS = _words(
    """
    admin db database ftp mail mongo mysql pg redis root smtp user
    """
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_RANDOM = re.compile(r"(?=[^a-zA-Z]*[a-zA-Z])(?=[^0-9]*[0-9])[A-Za-z0-9+/=]{24,}")

_KNOWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![\w-])eyJ[\w-]{6,}(?:\.[\w-]*){1,2}"
    r"|(?<![\w-])sk-(?=[\w-]{0,64}[0-9])[\w-]{16,}|\b[prs]k_(?:live|test)_\w{8,}"
    r"|\bgh[opusr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}|\bhf_[A-Za-z0-9]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"
    r"|\bwandb_v[0-9]+_\w{16,}|\blocal-[0-9a-f]{40}\b|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}"
    r"|\bnvapi-[\w-]{16,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
)
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=[\w.~+/=-]*[0-9=])[\w.~+/=-]{8,}")
_WEBHOOK = re.compile(r"(?i)(://hooks\.[\w.-]+/|://[\w.-]+/api/webhooks/)[^\s\"']+")
_USERINFO = re.compile(
    r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)(?:[^\s/?#]{1,512}@|[^\s/:@]{0,256}:(?![0-9]+/)[^\s@]{1,256}@)"
)
_ASSIGNED = re.compile(
    r"(?i)((?:passwd|password|passphrase|secret|api[_-]?key|access[_-]?key"
    r"|(?:auth|access|api|hf|wandb|refresh)[_-]?token|[?&;](?:token|sig|signature|x-amz-signature"
    r"|key|code)|(?<![\w-])token(?==))[\w-]{0,20}[\"']?\s{0,3}[=:]\s{0,3}[\"']?)[^\s&;,\"']+"
)

_OPTION = re.compile(r"(?<!\S)(--?[A-Za-z][\w.-]{0,60})(=|\s+)([^\s]+)")


def mask_text(text: str) -> str:
    """Return a text without what looks like a credential."""
    if len(text) < 8:
        return text
    # Most texts hold none of the marks; looking for those first is a hundred times cheaper.
    if "://" in text:
        text = _WEBHOOK.sub(rf"\1{MASK}", _USERINFO.sub(rf"\1{MASK}@", text))
    text = _KNOWN.sub(MASK, text)
    if " " in text:
        text = _SCHEME.sub(rf"\1{MASK}", text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\1{MASK}", text)
    return _OPTION.sub(_mask_option, text) if "-" in text else text


def hides(name: str, value: object) -> bool:
    """Say whether a value is hidden because of the name it stands under."""
    if value is None or value is True or value is False or _is_empty_text(value):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    compact = "".join(words)
    if _STRONG.search(compact) or not _STRONG_WORDS.isdisjoint(words):
        return True
    # A type, not isinstance: the value is the user's, and its __class__ may be, too.
    if not words or issubclass(type(value), (int, float)):
        return False
    return _is_weak_secret(words, value)


def hidden_keys(pairs: list[tuple[str, object]]) -> frozenset[str]:
    """Return the keys of one mapping whose values are hidden.

    A mapping like ``{"name": "API_KEY", "value": ...}`` names its secret in a neighbour.
    """
    hidden = {key for key, value in pairs if hides(key, value)}
    names = [value for key, value in pairs if key in ("name", "key") and type(value) is str]
    hidden.update(
        key for key, value in pairs if key == "value" and any(hides(name, value) for name in names)
    )
    return frozenset(hidden)


def hidden_positions(items: list[object]) -> frozenset[int]:
    """Return the places in a list that follow an option naming a secret: ``--api-key X``."""
    return frozenset(
        place + 1
        for place, (item, following) in enumerate(pairwise(items))
        if type(item) is str and item.startswith("-") and "=" not in item and hides(item, following)
    )


def names_secret(name: str) -> bool:
    """Say whether a name alone tells that a text under it is a secret."""
    return hides(name, "text")


def _mask_option(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    return f"{name}{between}{MASK}" if hides(name, value) else match.group()


def _is_empty_text(value: object) -> bool:
    # Asked of the type: comparing would run the value's own code.
    return issubclass(type(value), str) and not str.__len__(value)  # type: ignore[arg-type]


def _is_weak_secret(words: list[str], value: object) -> bool:
    last = words[-1]
    before = words[-2] if len(words) > 1 else ""
    if last in _ENDINGS:
        return True
    if last == "pass":
        return before in _PASS_OWNERS
    if last in ("key", "keys"):
        return before in _KEY_OWNERS or (type(value) is str and bool(_RANDOM.fullmatch(value)))
    return _is_token(words, value)


def _is_token(words: list[str], value: object) -> bool:
    if any(
        owner in _TOKEN_OWNERS and word in ("token", "tokens") for owner, word in pairwise(words)
    ):
        return True
    if words[-1] != "token" or issubclass(type(value), (list, tuple, dict)):
        return False
    return len(words) == 1 or words[-2] not in _TOKEN_KINDS
