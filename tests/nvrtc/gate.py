"""Compiles the kernels with NVRTC and compares what they need with kernels/budget.toml.

Each file is compiled in a process of its own: the compiler has been seen to crash on what it does
not like. `--compile` is that process: it prints the compiler's log and, as its last line, whether
it went well.
"""

import concurrent.futures
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import tomllib

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "kernels"
BUDGET = KERNELS / "budget.toml"
ARCHITECTURES = ["sm_80", "sm_89", "sm_90a"]
# Both types of activations, and the heads that are not compiled by default.
VARIANTS = [[], ["-DGEMBA_ACT_F16"]]
HEADS = [["-DGEMBA_HEAD_DIM=16"]]


def compile_one(home: str, path: str, architecture: str, flags: list[str]) -> int:
    """Compiles one file; the log to stdout."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = pathlib.Path(home, "lib", version, "site-packages/nvidia/cu13/lib")
    ctypes.CDLL(str(next(libraries.glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(libraries / "libnvrtc.so.13"))
    options = [
        "--std=c++17",
        "-default-device",
        f"--gpu-architecture={architecture}",
        f"--include-path={KERNELS}",
        "--ptxas-options=-v",
        *flags,
    ]
    program = ctypes.c_void_p()
    source = pathlib.Path(path).read_bytes()
    name = os.path.basename(path).encode()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None) != 0:
        return 1
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    result = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    print(log.value.decode())
    print("compiled" if result == 0 else "refused")
    return result


def needs(log: str) -> dict[str, dict[str, int]]:
    """What each kernel of a log needs."""
    kernels, name = {}, None
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found.group(1)
            kernels[name] = {}
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, stores, loads = map(int, found.groups())
            kernels[name] |= {"stack": stack, "spilled": stores + loads}
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] |= {
                "registers": int(found.group(1)),
                "shared": int(shared.group(1)) if shared else 0,
            }
    return kernels


def run_one(home: str, path: pathlib.Path, architecture: str, flags: list[str]):
    command = [sys.executable, __file__, "--compile", home, str(path), architecture, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    what = " ".join([path.name, architecture, *flags])
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or lines[-1] != "compiled":
        said = done.stdout + done.stderr
        return what, {}, [f"{what}: not compiled (exit {done.returncode})\n{said}"]
    wrong = [f"{what}: {line}" for line in lines if "warning" in line]
    return what, needs(done.stdout), wrong


def gate(home: str) -> int:
    files = sorted(KERNELS.glob("*.cu"))
    jobs = []
    for path in files:
        attends = path.stem in ("attn_decode", "attn_prefill")
        for architecture in ARCHITECTURES:
            for variant in VARIANTS:
                for heads in [[], *(HEADS if attends else [])]:
                    jobs.append((home, path, architecture, variant + heads))
    wrong, most, compiled = [], {}, 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for what, kernels, complaints in pool.map(lambda job: run_one(*job), jobs):
            wrong += complaints
            compiled += len(kernels)
            if not kernels and not complaints:
                wrong.append(f"{what}: no kernel in the compiler's log")
            for name, need in kernels.items():
                if set(need) != {"stack", "spilled", "registers", "shared"}:
                    wrong.append(f"{what}: {name}: the log says only {sorted(need)}")
                    continue
                if need["spilled"] > 0 or need["stack"] > 0:
                    wrong.append(
                        f"{what}: {name}: {need['spilled']} bytes spilled, "
                        f"{need['stack']} bytes of stack"
                    )
                held = most.setdefault(name, {"registers": 0, "shared": 0})
                for key in held:
                    held[key] = max(held[key], need[key])
    if os.environ.get("GEMBA_BLESS") == "1":
        text = (
            "# What each kernel may need, on the worst of the architectures and activation types\n"
            "# of tests/nvrtc/gate.py: registers of a thread and bytes of shared memory of a block.\n"
            "# Spills and stack are never allowed. Written by GEMBA_BLESS=1 tests/nvrtc/run.\n\n"
        )
        for name, need in sorted(most.items()):
            text += f"{name} = {{ registers = {need['registers']}, shared = {need['shared']} }}\n"
        BUDGET.write_text(text)
    budget = tomllib.loads(BUDGET.read_text())
    for name, need in sorted(most.items()):
        if name not in budget:
            wrong.append(f"{name}: not in {BUDGET.name}")
            continue
        for key, value in need.items():
            if value > budget[name][key]:
                held = budget[name][key]
                wrong.append(f"{name}: {key}: {value}, at most {held} in {BUDGET.name}")
    wrong += [f"{name}: in {BUDGET.name}, but not a kernel" for name in budget if name not in most]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"nvrtc: {compiled} kernels in {len(jobs)} images, {len(most)} entry points: "
          + ("all within budget" if not wrong else f"{len(wrong)} complaints"))
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "--compile":
        sys.exit(compile_one(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]))
    sys.exit(gate(sys.argv[1]))
