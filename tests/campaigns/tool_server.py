"""Run tools in processes that have already imported everything.

Reads a request a line, as JSON, and prints the process's id, then its wait status. A
tool that is started here differs from one that a user starts in the imports only.
"""

import json
import os
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path

import torch

from mmesbnn import cli

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def import_all():
    """Import the tools' modules except OpenVINO, whose threads do not survive a fork."""
    import mmdet  # noqa: F401
    import mmengine.runner  # noqa: F401
    import mmpretrain.models  # noqa: F401
    import safetensors.torch  # noqa: F401

    import mmesbnn.analysis
    import mmesbnn.conversion
    import mmesbnn.deploy.packed.packing  # noqa: F401
    from mmesbnn.diffusion import SRDiffusionPipeline  # noqa: F401


def child(request):
    """Run the tool; signals end it with one line, as in its own process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli._install(cli._end_now)
    for number, name in ((1, 'out'), (2, 'err')):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, number)
    encoding = request.get('encoding', 'utf-8')
    sys.stdout.reconfigure(encoding=encoding)
    sys.stderr.reconfigure(encoding=encoding)
    os.chdir(request['cwd'])
    if 'limit' in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request['limit'],) * 2)
    sys.argv = [str(TOOLS / request['tool']), *request['args']]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as Python does
    # from here on signals go to the tool
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    runpy.run_path(sys.argv[0], run_name='__main__')


def status_of(end):
    """Return the exit status that Python would give, after the same flush."""
    sys.stdout.flush()
    if isinstance(end, SystemExit):
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        return code if isinstance(code, int) else int(code is not None)
    traceback.print_exception(end)
    return 1


def main():
    torch.set_num_threads(1)
    import_all()
    print('ready', flush=True)
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, cli_signals())
        pid = os.fork()
        if not pid:
            status = 1
            try:
                child(json.loads(line))
            except BaseException as end:
                status = status_of(end)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                cli.remove_unfinished()  # as when Python exits
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def cli_signals():
    return [getattr(signal, name) for name in cli.ENDING]


if __name__ == '__main__':
    main()
