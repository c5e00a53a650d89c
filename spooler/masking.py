"""Decides what is a secret: by the name of a setting, and by the look of a text; pure.

Rules:
- A name is read as words (``hfToken``, ``HF-TOKEN`` and ``hf_token`` are one), so that
  "tokenizer", "max_tokens", "vocab_key" and "author" are no secrets.
- A strong word ("password", in any of a dozen languages) hides any value but a truth value, null
  or an empty text. A weak word ("token", "key") needs a companion or the last place, and hides
  texts and containers, not small numbers: ``pad_token: 0`` is a setting.
- A text is masked where it has the form of a known credential, whatever its name. Where it names a
  value (``NAME=value``, ``name: value``), the name decides as above.
- 40 hexadecimal digits are a key of wandb, and 40 mixed characters a secret of AWS, unless the
  name says that they are a commit or a checksum.
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
    r"passwd|password|passphrase|passcode|secret(?!ar)|credential|apikey|accesskey|privatekey"
    r"|authkey|signingkey|encryptionkey|accountkey|connectionstring|bearer|accesstoken|authtoken"
    r"|refreshtoken|passwort|kennwort|contraseña|contrasena|senha|motdepasse|wachtwoord|lösenord"
    r"|пароль|密码|密碼|密钥|密鑰|口令|令牌|パスワード|비밀번호"
)
_STRONG_WORDS = _words("authorization cookie cookies creds dsn jwt netrc pwd")
_ENDINGS = frozenset({"auth", "otp", "pat"})
_WHOLE_NAMES = frozenset({"ak", "pass", "pw", "sk"})  # as parts of a name they mean something else
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
_PASS_OWNERS = _words("admin db database ftp mail mongo mysql pg redis root smtp user")

# Names of values that are long and look random, and may be seen.
_DIGESTS = _words(
    """
    checksum commit commits digest etag git hash head id md5 ref rev revision sha sha1 sha256
    uid uuid version
    """
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_NUMBER = re.compile(r"[+-]?[\d.,]{1,20}(?:e[+-]?\d{1,4})?%?", re.IGNORECASE)
_LARGE = 100_000  # a number of six digits under the name of a key is a secret
_BARE = re.compile(
    r"[0-9a-f]{40}|(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9+/]{40}"
)
_RANDOM = re.compile(r"(?=[^a-zA-Z]*[a-zA-Z])(?=[^0-9]*[0-9])[A-Za-z0-9+/=]{24,}")

_KNOWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![\w-])eyJ[\w-]{6,}(?:\.[\w-]*){1,2}"
    r"|(?<![\w-])sk-(?=[\w-]{0,64}[0-9])[\w-]{16,}|\b[prs]k_(?:live|test)_\w{8,}"
    r"|\bgh[opusr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}|\bhf_[A-Za-z0-9]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"
    r"|\bwandb_v[0-9]+_\w{16,}|\blocal-[0-9a-f]{40}\b|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}"
    r"|\bnvapi-[\w-]{16,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bhv[sbr]\.[\w-]{20,}|\bs\.[A-Za-z0-9]{24}\b"
    r"|\bdapi[0-9a-f]{32}(?:-\d)?\b|\br8_[A-Za-z0-9]{30,}|\bgsk_[A-Za-z0-9]{30,}"
    r"|\bapi_org_[A-Za-z0-9]{20,}|\bxai-[A-Za-z0-9]{30,}|\bpplx-[A-Za-z0-9]{30,}"
    r"|\btgp_v1_[\w-]{30,}|\bfw_[A-Za-z0-9]{20,}|\bdckr_pat_[\w-]{20,}|\bdop_v1_[0-9a-f]{40,}"
    r"|\b\d{8,10}:AA[\w-]{30,}|(?<![\w+/=-])[\w-]{43}=(?![\w=])|\bAGE-SECRET-KEY-1[0-9A-Z]{40,}"
    r"|\bya29\.[\w-]{20,}|\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us\d{1,2}\b"
)
# `name=value` and `name: value`; a value in quotes ends with them.
_PAIR = re.compile(
    r"(?<![\w./-])([^\W\d][\w.-]{0,60})([\"']?[ \t]{0,3}[=:][ \t]{0,3})"
    r"(\"[^\"\n]{1,500}\"|'[^'\n]{1,500}'|(?!\[masked\])[^\s&;,\"'{}\[\]()]{1,500})"
)
_NETRC = re.compile(r"(?i)(\blogin\s{1,20}\S{1,200}\s{1,20}password\s{1,20})(?!\[masked)\S{1,500}")
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
        text = _NETRC.sub(rf"\1{MASK}", text)
    if "=" in text or ":" in text:
        text = _PAIR.sub(_mask_pair, _ASSIGNED.sub(rf"\1{MASK}", text))
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
    if not words or issubclass(type(value), float):
        return False
    if issubclass(type(value), int):
        return words[-1] == "key" and _names_key(words) and abs(int(value)) >= _LARGE  # type: ignore[call-overload]
    if type(value) is str and _BARE.fullmatch(value) and _DIGESTS.isdisjoint(words):
        return True
    return compact in _WHOLE_NAMES or _is_weak_secret(words, value)


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
    """Return the places in a list that hold a secret.

    They follow an option (``--api-key X``), or a name in a pair (``["API_KEY", "X"]``).
    """
    is_pair = len(items) == 2
    return frozenset(
        place + 1
        for place, (item, following) in enumerate(pairwise(items))
        if type(item) is str
        and (is_pair or item.startswith("-"))
        and "=" not in item
        and hides(item, following)
    )


def _mask_pair(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    bare = value.strip("\"'")
    if bare.lower() in ("bearer", "basic", "true", "false", "none", "null"):
        return match.group()
    if _NUMBER.fullmatch(bare) and not _STRONG.search(name.lower()):
        return match.group()
    quote = value[0] if value[0] in "\"'" else ""
    return f"{name}{between}{quote}{MASK}{quote}" if hides(name, bare) else match.group()


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
        return _names_key(words) or (type(value) is str and bool(_RANDOM.fullmatch(value)))
    return _is_token(words, value)


def _names_key(words: list[str]) -> bool:
    return len(words) > 1 and words[-2] in _KEY_OWNERS


def _is_token(words: list[str], value: object) -> bool:
    if words == ["tokens"] and issubclass(type(value), (list, tuple)):
        texts = [one for one in list(value)[:64] if type(one) is str]  # type: ignore[call-overload]
        return any(
            len(text) >= 16 and _RANDOM.fullmatch(text[:24].ljust(24, "a")) for text in texts
        )
    if any(
        owner in _TOKEN_OWNERS and word in ("token", "tokens") for owner, word in pairwise(words)
    ):
        return True
    if words[-1] != "token" or issubclass(type(value), (list, tuple, dict)):
        return False
    return len(words) == 1 or words[-2] not in _TOKEN_KINDS
