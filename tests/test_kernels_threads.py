"""The worker pool and the backend under the thread sanitizer, by themselves."""

import cxx
from native_build import run


def test_no_races(sanitized_build):
    made = sanitized_build("thread")
    done = run([*made.launcher, made.folder / "kernels_threads"], timeout=300)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr


def test_the_sanitizer_would_see_one(sanitized_build, tmp_path):
    made = sanitized_build("thread")
    source, program = tmp_path / "race.cpp", tmp_path / "race"
    source.write_text("#include <thread>\nint n;\nint main() { std::thread t([] { n++; }); n++; t.join(); }\n")
    assert run([cxx.COMPILER, *made.flags, source, "-o", program, "-pthread"]).returncode == 0
    assert "data race" in run([*made.launcher, program]).stderr
