import json
import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from rbee_deploy import engine_builds, engines, installs
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.engines import build_engine, install_script, needed_glibc
from rbee_deploy.errors import ArtefactError
from rbee_deploy.inventory import command_engine
from rbee_deploy.local import install_engine

HERE = Target.this_machine()
BUILD = engine_builds.BUILDS["llama-cpp", "cpu-x86_64_v3"]


def quiet(line: str) -> None:
    """Drop progress."""


def test_the_build_is_portable() -> None:
    """The options name a CPU baseline, never the build machine's own CPU."""
    options = BUILD.options()
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON"} <= set(options)
    assert not any("AVX512" in option or "march" in option for option in options)


@pytest.mark.parametrize("change", ["glibc", "options"])
def test_what_decides_a_build_decides_its_key(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another libc or option is another build."""
    before = engine_builds.built_key(BUILD)
    build = BUILD
    if change == "glibc":
        monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.99"))
    else:
        build = engine_builds.EngineBuild(**{**vars(BUILD), "on": ("GGML_AVX",)})
    assert engine_builds.built_key(build) != before


@pytest.mark.parametrize(
    ("name", "variant", "arch", "sentence"),
    [
        ("llama-cpp", "cuda12", "x86_64", "no engine build llama-cpp cuda12: it knows llama-cpp cpu-x86_64_v3"),
        ("sglang", "cpu-x86_64_v3", "x86_64", "no engine build sglang cpu-x86_64_v3"),
        ("vllm", "cpu-x86_64_v3", "x86_64", "engine vllm cpu-x86_64_v3 is there for Python 3.11 and the host has 3.13"),
        ("llama-server", "cpu-x86_64_v3", "aarch64", "an engine for x86_64 cannot be built for aarch64 hosts"),
        ("llama-cpp", "cpu-x86_64_v3", "aarch64", "an engine for aarch64 cannot be built as x86_64 on this"),
    ],
)
def test_an_impossible_build_is_one_sentence(name: str, variant: str, arch: str, sentence: str, tmp_path: Path) -> None:
    """An unknown engine, variant or foreign architecture is refused before anything is compiled."""
    with pytest.raises(ArtefactError) as raised:
        build_engine(name, variant, Target(python="3.13", arch=arch), tmp_path, say=quiet)
    assert sentence in str(raised.value)


def test_no_compiler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C++ compiler the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ArtefactError, match=r"^building an engine needs a C\+\+ compiler.*apt-get install g\+\+$"):
        build_engine("llama-cpp", "cpu-x86_64_v3", HERE, tmp_path, say=quiet)


def test_an_unpacked_wheel_loses_headers_and_copies(tmp_path: Path) -> None:
    """Libraries that a wheel must carry three times become one file and a link; headers and tests go."""
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("include/x.h", "lib/libllama.so", "pkg/tests/test_x.py", "pkg/__init__.py", "w.data/scripts/x"):
            archive.writestr(name, "x")
        for suffix in ("", ".0", ".0.5.0"):
            archive.writestr(f"llama_cpp/lib/libllama.so{suffix}", b"\0GLIBC_2.34\0GLIBC_2.2.5\0")
    site = tmp_path / "site"
    engines._unpack(wheel, site)
    engines._slim(site)
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert found == {"pkg/__init__.py", "llama_cpp/lib/libllama.so", "llama_cpp/lib/libllama.so.0"}
    assert (site / "llama_cpp/lib/libllama.so").readlink() == Path("libllama.so.0")
    assert needed_glibc(site) == "2.34"


def test_an_engine_has_its_name_last() -> None:
    """An engine is unpacked beside its place, where its mark is not seen, and is put there when all of it is there."""
    commands = install_script("/stage/e.tar", "/opt/rbee/engines/e", python="/usr/bin/python3")
    # The first puts an engine back that an exchange left beside when it was cut off.
    assert [command for command in commands if "/opt/rbee/engines/e" in command] == [commands[0], commands[-1]]
    assert commands[-1][-1] == "/opt/rbee/engines/e"
    assert ("tar", "-C", installs.made_in("/opt/rbee/engines/e"), "--no-same-owner", "-xf", "/stage/e.tar") in commands


@pytest.fixture(scope="module")
def engine() -> Artefact:
    return build_engine("llama-cpp", "cpu-x86_64_v3", Target(python="3.13", glibc="2.41"), say=quiet)


@pytest.mark.engine
class TestBuilt:
    def test_the_manifest_says_what_it_fits(self, engine: Artefact) -> None:
        """engine.json names engine, variant, Python and the least glibc, and the id repeats the first three."""
        with tarfile.open(engine.archive) as tar:
            file = tar.extractfile("engine.json")
            assert file is not None
            manifest = json.load(file)
        assert re.fullmatch(r"llama-cpp-0\.3\.36-cpu-x86_64_v3-[0-9a-f]{8}", engine.id)
        assert manifest.pop("glibc") <= HERE.glibc
        assert manifest == {
            "name": "llama-cpp", "version": "0.3.36", "variant": "cpu-x86_64_v3", "python": "3.13",
            "arch": "x86_64", "site": "site-packages",
        }  # fmt: skip

    def test_an_engine_says_which_glibc_it_needs(self, engine: Artefact) -> None:
        """Whoever brings it to an older host can tell, for it repeats what engine.json says."""
        said = json.loads(engine.archive.with_suffix(".json").read_text(encoding="utf-8"))
        assert engine.glibc == said["glibc"] != ""

    def test_every_library_is_a_hosts_or_its_own(self, llama_engine_dir: Path) -> None:
        """No library asks for one that a minimal Debian lacks; libgomp comes along."""
        host = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2"}
        needed: set[str] = set()
        for library in llama_engine_dir.glob("site-packages/llama_cpp/lib/*.so*"):
            dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
            needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
        own = {path.name for path in llama_engine_dir.glob("site-packages/llama_cpp/lib/*")}
        assert needed - host - own == set()
        assert "libgomp.so.1" in needed & own

    def test_the_engine_answers(self, llama_engine_dir: Path, smol_model: Path) -> None:
        """The unpacked engine loads the model in a bare interpreter and generates text."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import llama_cpp; "
            "m = llama_cpp.Llama(sys.argv[2], n_ctx=128, n_threads=2, verbose=False); "
            "print(len(m('The sky is', max_tokens=8, seed=1)['choices'][0]['text']))"
        )
        site = llama_engine_dir / "site-packages"
        argv = [sys.executable, "-I", "-c", code, str(site), str(smol_model)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 3

    def test_a_second_install_changes_nothing(self, llama_engine_dir: Path) -> None:
        """Installing again finds the folder and leaves every file alone."""
        before = (llama_engine_dir / "engine.json").stat().st_mtime_ns
        assert install_engine(llama_engine_dir.parent, say=quiet) == llama_engine_dir
        assert (llama_engine_dir / "engine.json").stat().st_mtime_ns == before


def test_a_described_server_is_an_artefact_of_one_file(tmp_path: Path) -> None:
    """The same line of an inventory is the same archive, another word is another one."""
    server = command_engine("sglang", version="0.5.1", command=["sglang", "--port", "{port}"])
    made = engines.command_artefact(server, tmp_path)
    assert re.fullmatch(r"sglang-0\.5\.1-[0-9a-f]{8}", made.id)
    assert engines.command_artefact(server, tmp_path) == made
    other = command_engine("sglang", version="0.5.1", command=["sglang", "--host", "::1", "--port", "{port}"])
    assert engines.command_artefact(other, tmp_path).id != made.id
    with tarfile.open(made.archive) as tar:
        stream = tar.extractfile("engine.json")
        assert stream is not None
        about = json.loads(stream.read())
        assert {member.name for member in tar.getmembers()} == {"engine.json", "site-packages"}
    assert (about["name"], about["command"], about["ready"]) == ("sglang", ["sglang", "--port", "{port}"], "/health")
