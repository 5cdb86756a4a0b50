"""A hub on this computer, with the part of the protocol that huggingface_hub needs here.

It keeps repositories of models in memory: branches of commits, a commit being a dict of files.
Large files come by the LFS protocol. Every request is recorded.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

REPO = r'(?P<repo>[\w.-]+/[\w.-]+)'
TOKEN = 'hf_secret'


class Repository:
    """Branches and files of one repository."""

    def __init__(self, private=False):
        self.private = private
        self.commits = {}
        self.branches = {}
        self.messages = []
        self.add('main', {'.gitattributes': b'*.safetensors filter=lfs'}, 'initial commit')

    def add(self, branch, files, message):
        """Add a commit with changed files to a branch; return its hash."""
        content = {**self.commits.get(self.branches.get(branch), {}), **files}
        commit = hashlib.sha1(f'{len(self.commits)} {branch}'.encode()).hexdigest()
        self.commits[commit] = content
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def resolve(self, revision):
        """Return the commit of a branch or a commit, None if there is none."""
        return revision if revision in self.commits else self.branches.get(revision)


class Hub:
    """State of the hub, and its address."""

    def __init__(self):
        self.repositories = {}
        self.blobs = {}
        self.requests = []
        self.endpoint = None


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    protocol_version = 'HTTP/1.1'
    hub = None

    def log_message(self, *args):
        """Print nothing."""

    def answer(self, content=b'', status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault('Content-Type', 'application/json')
        self.send_response(status)
        headers.setdefault('Content-Length', str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def refuse(self, status, code):
        self.answer({'error': code}, status, X_Error_Code=code, X_Error_Message=code)

    def dispatch(self):
        length = int(self.headers.get('Content-Length') or 0)
        chunked = self.headers.get('Transfer-Encoding') == 'chunked'
        self.body = self.chunks() if chunked else self.rfile.read(length)
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get('Authorization')))
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return function(self, **found.groupdict())
        self.refuse(404, 'UnknownRoute')

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def chunks(self):
        """Read a body of unknown length."""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(parts)

    @property
    def is_owner(self):
        return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def found(self, repo):
        """Return a repository that the sender may see, or answer that there is none."""
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self.is_owner):
            self.refuse(404 if self.is_owner else 401, 'RepoNotFound')
            return None
        return repository

    # download ---------------------------------------------------------------------

    def resolve(self, repo, revision, file):
        repository = self.found(repo)
        if repository is None:
            return
        commit = repository.resolve(revision)
        if commit is None:
            self.refuse(404, 'RevisionNotFound')
        elif file not in repository.commits[commit]:
            self.answer({}, 404, X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
        else:
            content = repository.commits[commit][file]
            tag = hashlib.sha256(content).hexdigest()
            self.answer(content, X_Repo_Commit=commit, ETag=f'"{tag}"')

    # upload -----------------------------------------------------------------------

    def create(self):
        given = json.loads(self.body)
        repo = f'{given.get("organization") or "me"}/{given["name"]}'
        if not self.is_owner:
            return self.refuse(401, 'Unauthorized')
        address = {'url': f'{self.hub.endpoint}/{repo}', 'name': repo}
        if repo in self.hub.repositories:
            return self.answer(address, 409)
        private = given.get('private') or given.get('visibility') == 'private'
        self.hub.repositories[repo] = Repository(bool(private))
        self.answer(address)

    def branch(self, repo, branch):
        repository = self.hub.repositories[repo]
        if branch in repository.branches:
            return self.answer({}, 409)
        repository.branches[branch] = repository.branches['main']
        self.answer({}, 201)

    def validate(self):
        self.answer({'errors': [], 'warnings': []})

    def preupload(self, repo, revision):
        files = [
            {
                'path': file['path'],
                'uploadMode': 'lfs' if file['path'].endswith('.safetensors') else 'regular',
                'shouldIgnore': False,
            }
            for file in json.loads(self.body)['files']
        ]
        self.answer({'files': files})

    def batch(self, repo):
        objects = [
            {**one, 'actions': {'upload': {'href': f'{self.hub.endpoint}/blobs/{one["oid"]}'}}}
            for one in json.loads(self.body)['objects']
        ]
        self.answer({'transfer': 'basic', 'objects': objects})

    def blob(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        self.answer()

    def commit(self, repo, revision):
        repository, files, message = self.hub.repositories[repo], {}, None
        if not self.is_owner:
            return self.refuse(403, 'Forbidden')
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry['value']
            if entry['key'] == 'header':
                message = value['summary']
            elif entry['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            else:
                files[value['path']] = self.hub.blobs[value['oid']]
        branch = 'refs/pr/1' if 'create_pr=1' in self.path else revision
        commit = repository.add(branch, files, message)
        address = f'{self.hub.endpoint}/{repo}'
        answer = {'success': True, 'commitOid': commit, 'commitUrl': f'{address}/commit/{commit}'}
        if branch != revision:
            answer['pullRequestUrl'] = f'{address}/discussions/1'
        self.answer(answer)


ROUTES = [
    ('GET HEAD', rf'/{REPO}/resolve/(?P<revision>.+?)/(?P<file>[\w.-]+)', Handler.resolve),
    ('POST', '/api/repos/create', Handler.create),
    ('POST', '/api/validate-yaml', Handler.validate),
    ('POST', rf'/api/models/{REPO}/branch/(?P<branch>.+)', Handler.branch),
    ('POST', rf'/api/models/{REPO}/preupload/(?P<revision>.+)', Handler.preupload),
    ('POST', rf'/{REPO}\.git/info/lfs/objects/batch', Handler.batch),
    ('PUT', r'/blobs/(?P<oid>\w+)', Handler.blob),
    ('POST', rf'/api/models/{REPO}/commit/(?P<revision>.+)', Handler.commit),
]


@contextlib.contextmanager
def fake_hub():
    """Run a hub; yield it, with its ``endpoint``."""
    hub = Hub()
    handler = type('HubHandler', (Handler,), {'hub': hub})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.daemon_threads = True
    hub.endpoint = f'http://127.0.0.1:{server.server_address[1]}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
