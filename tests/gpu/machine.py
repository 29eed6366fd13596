"""What a measurement runs on and with: the card, the binaries, the time that is left."""

import contextlib
import gzip
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The libraries that the binary looks for, and where toolkits and Python packages put them.
NVRTC = ["/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64", "/usr/local/cuda-*/targets/*/lib"]
DRIVER = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"]
# What nvidia-smi is asked for once, and again and again while something is measured.
FACTS = ["name", "uuid", "driver_version", "memory.total", "power.limit", "clocks.max.sm",
         "clocks.max.memory", "ecc.mode.current", "mig.mode.current"]
STATE = ["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"]


class Lacking(Exception):
    """Something that a part cannot do without is not here."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Done:
    """A command that ended or was ended."""

    def __init__(self, code, out: str, err: str, took: float):
        self.code, self.out, self.err, self.took = code, out, err, took

    @property
    def ended_in_time(self) -> bool:
        return self.code is not None

    def why(self) -> str:
        """The last words of a command that failed."""
        if not self.ended_in_time:
            return f"stopped after {self.took:.0f} s"
        words = [line for line in self.err.strip().splitlines() if line]
        return f"exit {self.code}: " + " / ".join(words[-3:])


class Machine:
    """This machine, for so many seconds."""

    def __init__(self, seconds: float, log):
        self.began = time.monotonic()
        self.end = self.part_end = self.began + seconds
        self.log = log
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="gemba-gpu-"))
        self.device = os.environ.get("DEVICE", "cuda")
        self.card = self.device.partition(":")[2] or "0"
        self.environment = dict(os.environ, **self._libraries())
        # Compiled kernels and ceilings are kept from call to call where the machine stays.
        self.environment.setdefault("XDG_CACHE_HOME", str(pathlib.Path.home() / ".cache"))
        self.environment["CARGO_MANIFEST_DIR"] = str(ROOT)
        self.environment["PYTHONUNBUFFERED"] = "1"
        bundle = pathlib.Path(os.environ.get("BUNDLE", ROOT / ".gpu"))
        self.bundle = bundle if bundle.is_dir() else None
        self.commit = self._commit()

    def close(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def left(self) -> float:
        """Seconds that the part under way may still take."""
        return self.part_end - time.monotonic()

    def begin_part(self, of: int) -> None:
        """Gives the next part an even share of what is left, if `of` parts are still to come."""
        now = time.monotonic()
        self.part_end = now + (self.end - now) / of

    def binary(self, name: str) -> str:
        """A program of the bundle, unpacked; or the one that a variable names."""
        named = os.environ.get(name.upper())
        if named:
            # Commands run in a folder of their own.
            return str(pathlib.Path(named).resolve())
        place = self.work / name
        if not place.exists():
            packed = self.bundle and self.bundle / f"{name}.gz"
            if not packed or not packed.exists():
                raise Lacking(f"{name}: neither {name.upper()} nor a bundle (tests/gpu/run bundle)")
            with gzip.open(packed) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
            place.chmod(0o755)
        return str(place)

    def tool(self, name: str) -> str | None:
        """A program of the CUDA toolkit; none if it is not here."""
        found = shutil.which(name)
        places = sorted(pathlib.Path("/usr/local").glob(f"cuda*/bin/{name}"))
        return found or (str(places[-1]) if places else None)

    def run(self, command: list[str], most: float | None = None, **environment: str) -> Done:
        """Runs a command, at most so long and no longer than time is left. What it had printed
        stays when it is stopped."""
        limit = max(1.0, min(most or self.left(), self.left()))
        began = time.monotonic()
        code, out, err = None, "", ""
        try:
            done = subprocess.run(command, capture_output=True, timeout=limit, check=False,
                                  cwd=self.work, env=dict(self.environment, **environment))
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as stopped:
            out, err = stopped.stdout or b"", stopped.stderr or b""
        except OSError as error:
            code, err = 127, str(error)
        text = lambda said: said.decode(errors="replace") if isinstance(said, bytes) else said
        done = Done(code, text(out), text(err), time.monotonic() - began)
        name = " ".join(command)
        self.log.write(f"$ {name}\n# {done.took:.1f} s, exit {code}\n{done.err[-4000:]}\n")
        self.log.flush()
        return done

    def gemba(self, *words: str, most: float | None = None) -> Done:
        return self.run([self.binary("gemba"), *words], most)

    def doctor(self) -> dict:
        """What the binary finds here."""
        done = self.gemba("doctor", "--json", most=60)
        if done.code != 0:
            raise Lacking(f"gemba doctor: {done.why()}")
        return json.loads(done.out)

    def ask(self, query: list[str]) -> dict[str, str]:
        """What nvidia-smi says of the card; empty if it says nothing."""
        smi = self.tool("nvidia-smi")
        if not smi:
            return {}
        done = self.run([smi, f"--id={self.card}", f"--query-gpu={','.join(query)}",
                         "--format=csv,noheader,nounits"], 20)
        values = [value.strip() for value in done.out.strip().split(",")]
        return dict(zip(query, values)) if len(values) == len(query) else {}

    @contextlib.contextmanager
    def watched(self):
        """Clocks, power and heat of the card while something runs, by nvidia-smi; a dictionary
        that is filled when it ends."""
        smi, summary = self.tool("nvidia-smi"), {}
        if not smi:
            yield summary
            return
        watcher = subprocess.Popen(
            [smi, f"--id={self.card}", f"--query-gpu={','.join(STATE)}",
             "--format=csv,noheader,nounits", "-lms", "500"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(watcher.stdout), daemon=True)
        reader.start()
        try:
            yield summary
        finally:
            watcher.terminate()
            watcher.wait()
            reader.join(5)
            summary.update(spread(lines))

    def _libraries(self) -> dict[str, str]:
        """Where the driver and the run-time compiler are, before what is set already."""
        packages = [str(pathlib.Path(path) / "nvidia/*/lib") for path in sys.path if path]
        folders = []
        for pattern, name in [*((place, "libnvrtc.so*") for place in NVRTC + packages),
                              *((place, "libcuda.so*") for place in DRIVER)]:
            base = pathlib.Path("/")
            for folder in sorted(base.glob(pattern.lstrip("/")), reverse=True):
                if any(folder.glob(name)):
                    folders.append(str(folder))
        known = os.environ.get("LD_LIBRARY_PATH", "")
        return {"LD_LIBRARY_PATH": ":".join([*filter(None, [known]), *dict.fromkeys(folders)])}

    def _commit(self) -> str:
        stamp = self.bundle and self.bundle / "commit"
        if stamp and stamp.exists():
            return stamp.read_text().strip()
        done = self.run(["git", "-C", str(HERE), "describe", "--always", "--abbrev=40",
                         "--dirty"], 20)
        return done.out.strip() or "unknown"


def spread(lines: list[str]) -> dict[str, dict[str, float]]:
    """Least, middle and most of each column of what nvidia-smi printed again and again."""
    columns: dict[str, list[float]] = {name: [] for name in STATE}
    for line in lines:
        for name, value in zip(STATE, line.split(",")):
            with contextlib.suppress(ValueError):
                columns[name].append(float(value))
    return {
        name: {"least": min(values), "median": statistics.median(values), "most": max(values)}
        for name, values in columns.items() if values
    }
