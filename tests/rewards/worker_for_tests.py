"""A worker that does what the request says."""

import json
import os
import sys
import time

from rewards.pool import confine_worker

if __name__ == "__main__":
    confine_worker()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "sleep" in request:
            time.sleep(request["sleep"])
        if "exit" in request:
            os._exit(request["exit"])
        if "allocate" in request:
            bytearray(request["allocate"])
        print(json.dumps(os.getpid() if "pid" in request else request), flush=True)
