"""The worker pool and the backend under the thread sanitizer, by themselves."""

from native_build import CXX_COMPILER, run


def test_no_races(sanitized_build):
    made = sanitized_build("thread")
    done = run([*made.launcher, made.folder / "kernels_threads"], timeout=300)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr


def test_the_sanitizer_would_see_one(sanitized_build, tmp_path):
    made = sanitized_build("thread")
    source = tmp_path / "race.cpp"
    source.write_text("#include <thread>\nint n;\nint main() { std::thread t([] { n++; }); n++; t.join(); }\n")
    assert run([CXX_COMPILER, *made.flags, source, "-o", tmp_path / "race", "-pthread"]).returncode == 0
    assert "data race" in run([*made.launcher, tmp_path / "race"]).stderr
