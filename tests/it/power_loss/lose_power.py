"""Takes the power from a gateway and its disk: kills the process, and shuts the file system down, so that all that is not
flushed is gone.

usage: lose_power.py FOLDER PROCESS DELAY_MS SEED

FOLDER is the disk's mount point, which is awaited. SEED decides how much the system has written back of its own accord.
"""

import fcntl
import os
import random
import signal
import sys
import time

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs/ext4/ext4.h
EXT4_GOING_FLAGS_NOLOGFLUSH = 2
LOOP_MAJOR = 7  # Documentation/admin-guide/devices.txt
PAGE = 4096

folder, process = sys.argv[1], int(sys.argv[2])
delay_ms, chance = int(sys.argv[3]), random.Random(int(sys.argv[4]))


def mounted():
    """Returns a descriptor of the disk, once it is mounted: another one must never be shut down."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            disk = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            time.sleep(0.001)
            continue
        device = os.fstat(disk).st_dev
        if os.major(device) == LOOP_MAJOR and device != os.stat("..", dir_fd=disk).st_dev:
            return disk
        os.close(disk)
        time.sleep(0.001)
    sys.exit(f"no disk is mounted at {folder}")


def write_back(path):
    """Flushes a file, writes some ranges of it, or leaves it: the system may do each at any time and in any order."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    pages = os.fstat(file).st_size // PAGE + 1
    what = chance.randrange(4)
    if what == 0:
        os.fdatasync(file)
    elif what < 3:
        for _ in range(8):
            # Starts to write the dirty pages of the range.
            start, count = chance.randrange(pages), chance.randint(1, 4)
            os.posix_fadvise(file, start * PAGE, count * PAGE, os.POSIX_FADV_DONTNEED)
    os.close(file)


disk = mounted()
time.sleep(delay_ms / 1000)
# The process dies first: a flush that the shutdown interrupts may claim to have succeeded. It is still under way then, since
# a signal does not end it, and the descriptor keeps the disk mounted.
os.kill(process, signal.SIGKILL)
# In every other round, nothing is written back.
if chance.random() < 0.5:
    for path, _, names in os.walk(f"/proc/self/fd/{disk}/"):
        for name in names:
            write_back(os.path.join(path, name))
fcntl.ioctl(disk, EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH.to_bytes(4, sys.byteorder))
