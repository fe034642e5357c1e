"""Counts the instructions that a program for 64-bit ARM executes in qemu-aarch64, by a plug-in that is compiled here.

A program marks a place by the system call MARK_CALL with the argument MARK: the count so far is told there too.
"""

import os
import subprocess
import sys
from pathlib import Path

# sched_get_priority_max() of 64-bit ARM, called with a policy that there is not: it does nothing.
MARK_CALL, MARK = 125, 123456

# Counts instructions, block by block as they are executed. Versions of the interface differ in its number only.
PLUGIN = """
#include <inttypes.h>
#include <stdio.h>

int qemu_plugin_version = VERSION;
size_t qemu_plugin_tb_n_insns(const void * block);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t, void *));
void qemu_plugin_register_vcpu_tb_exec_cb(void *, void (*executed)(unsigned, void *), int flags, void * user_data);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*leaving)(uint64_t, void *), void * user_data);
typedef void (*syscall_callback)(uint64_t id, unsigned processor, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                                 uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, syscall_callback called);

static uint64_t count;

static void executed(unsigned processor, void * n) {
    (void) processor;
    count += (uintptr_t) n;
}

static void translated(uint64_t id, void * block) {
    (void) id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *) qemu_plugin_tb_n_insns(block));
}

static void leaving(uint64_t id, void * user_data) {
    (void) id, (void) user_data;
    fprintf(stderr, "%" PRIu64 "\\n", count);
}

static void called(uint64_t id, unsigned processor, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void) processor, (void) a2, (void) a3, (void) a4, (void) a5, (void) a6, (void) a7, (void) a8;
    if (number == MARK_CALL && a1 == MARK) {
        leaving(id, NULL);
    }
}

int qemu_plugin_install(uint64_t id, const void * info, int n_arguments, char ** arguments) {
    (void) info, (void) n_arguments, (void) arguments;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, leaving, NULL);
    return 0;
}
"""


def run(*command, **settings):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **settings)


def build_plugin(folder: Path, program: Path) -> Path:
    """The plug-in for the qemu-aarch64 at hand. `program` is one that ends at once without arguments."""
    source = folder / "count.c"
    source.write_text(PLUGIN)
    for version in (1, 2, 3, 4, 5):
        plugin = folder / f"count_{version}.so"
        names = [f"-DVERSION={version}", f"-DMARK_CALL={MARK_CALL}", f"-DMARK={MARK}"]
        done = run("cc", "-shared", "-fPIC", "-O2", *names, source, "-o", plugin)
        if done.returncode != 0:
            sys.exit(done.stderr)
        told = run("qemu-aarch64", "-plugin", plugin, program).stderr.split()
        if told and told[-1].isdigit():
            return plugin
    sys.exit("this qemu-aarch64 takes no plugin")


def count(plugin: Path, processor: str, program: Path, *arguments, **environment: str) -> list[int]:
    """Instructions executed up to each mark, and up to the end."""
    command = ["qemu-aarch64", "-cpu", processor, "-plugin", plugin, program, *arguments]
    done = run(*command, env={**os.environ, **environment})
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: exit status {done.returncode}\n{done.stderr}")
    return [int(line) for line in done.stderr.splitlines() if line.isdigit()]
