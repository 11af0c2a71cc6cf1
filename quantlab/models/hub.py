"""A model from the Hugging Face Hub: pinned to a commit, safetensors only, and no byte more than loading needs.

A branch such as `main` moves; a commit hash does not. So the name that a user gives is first resolved to a commit,
which is printed, and only that commit is fetched. What is refused (pickles, code) is refused before the weights travel.

`HF_HUB_OFFLINE=1` uses what the cache holds and never asks the network. Without a network and without that variable
the answer is an error, not a silent fall-back to an older copy.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantlab.atomic import reason, require_space
from quantlab.errors import QuantlabError, UsageError
from quantlab.models.folder import INDEX, WEIGHTS, refuse_pickles, shard_names

_SMALL = re.compile(  # what a model folder needs beside its weights, all in the top folder
    r"config\.json|generation_config\.json|tokenizer[\w.\-]*|special_tokens_map\.json|added_tokens\.json|"
    r"vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|tekken\.json|chat_template\.\w+"
)
_CODE = re.compile(r"[\w.\-]+\.py")
Check = Callable[[Path], None]  # is given config.json, and raises if the model cannot be used


def to_stderr(line: str) -> None:
    """Where progress goes unless the caller says otherwise."""
    print(f"quantlab: {line}", file=sys.stderr, flush=True)


def download(
    repo: str, revision: str | None, with_code: bool, check: Check, say: Callable[[str], None] = to_stderr
) -> tuple[Path, str]:
    """Folder and commit hash of a model of the Hub, fetched unless the cache holds it; raises QuantlabError."""
    from huggingface_hub import constants

    with _explained(repo, revision):
        if constants.HF_HUB_OFFLINE:
            return _from_cache(repo, revision, say)
        return _from_hub(repo, revision, with_code, check, say)


def fetch_config(repo: str, revision: str | None = None) -> Path:
    """The config.json of a model of the Hub, and nothing else of it: for a plan; raises QuantlabError."""
    from huggingface_hub import constants, hf_hub_download

    with _explained(repo, revision):
        offline = constants.HF_HUB_OFFLINE
        return Path(hf_hub_download(repo, "config.json", revision=revision, local_files_only=offline))


def _from_cache(repo: str, revision: str | None, say: Callable[[str], None]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    needed = ["config.json", WEIGHTS, INDEX]  # those of them that the model has must be there
    folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=needed))
    say(f"{repo} at commit {folder.name}, from the cache (HF_HUB_OFFLINE is set)")
    return folder, folder.name


def _from_hub(
    repo: str, revision: str | None, with_code: bool, check: Check, say: Callable[[str], None]
) -> tuple[Path, str]:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=20)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    refuse_pickles({name for name in sizes if "/" not in name}, repo)
    if "config.json" not in sizes:
        raise QuantlabError(f"{repo} holds no config.json; give a Hugging Face model")
    config = Path(hf_hub_download(repo, "config.json", revision=revision))  # the cache now knows the branch's commit
    commit = config.parent.name
    say(f"{repo} at commit {commit}" + ("" if revision == commit else f" ({revision or 'main'} today)"))
    check(config)

    wanted = [name for name in sizes if _SMALL.fullmatch(name) or (with_code and _CODE.fullmatch(name))]
    if WEIGHTS in sizes:
        wanted.append(WEIGHTS)
    elif INDEX in sizes:
        wanted += [INDEX, *shard_names(Path(hf_hub_download(repo, INDEX, revision=commit)))]
    else:
        raise QuantlabError(f"{repo} holds neither {WEIGHTS} nor {INDEX}; choose a model that does")
    missing = [name for name in wanted if _absent(repo, name, commit)]
    if missing:
        nbytes = sum(sizes.get(name, 0) for name in missing)
        require_space(Path(constants.HF_HUB_CACHE), nbytes, f"downloading {repo}")
        say(f"downloading {len(missing)} files, {nbytes / 2**20:,.0f} MiB")
    return Path(snapshot_download(repo, revision=commit, allow_patterns=wanted)), commit


def _absent(repo: str, name: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return not isinstance(try_to_load_from_cache(repo, name, revision=commit), str)


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Each way in which the Hub can fail, as one sentence with its remedy."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except QuantlabError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repo!r} is neither a folder here nor a Hub id; give `tiny`, a folder, or an id such as owner/name"
        ) from error
    except errors.GatedRepoError as error:
        raise QuantlabError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, then run `hf auth login` "
            "or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise QuantlabError(
            f"{repo} is neither a folder here nor a model on the Hub that you may see; check the spelling, "
            "or run `hf auth login` if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise QuantlabError(f"{repo} has no revision {revision!r}; give a branch, tag or commit that it has") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise QuantlabError(_not_here(repo, error)) from error
    except (httpx.HTTPError, OSError) as error:
        raise QuantlabError(_failed(repo, error)) from error


def _not_here(repo: str, error: Exception) -> str:
    """Not in the cache: because nobody may ask the Hub, or because the Hub did not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{repo} is neither a folder here nor complete in the Hub's cache, and HF_HUB_OFFLINE is set; "
            "unset it to download the model, or give a local folder"
        )
    return _failed(repo, error.__cause__ or error)


def _failed(repo: str, error: BaseException) -> str:
    """The network, the Hub or the disk gave up."""
    import httpx
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return f"the Hub refused {repo}: {_status(error)}; try again later"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return (
            f"{repo} is not a folder here, and the Hub cannot be reached (no network?); connect, set HF_HUB_OFFLINE=1 "
            "to use a copy that was downloaded before, or use `tiny`, which needs no network"
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f" to {error.filename}" if error.filename else ""
        return f"cannot download {repo}{where}: {reason(error)} (HF_HOME says where models go)"
    what = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"the download of {repo} was interrupted ({what}); run the same command again, what is complete is kept"


def _status(error: Any) -> str:
    return f"{error.response.status_code} {error.response.reason_phrase}".strip()
