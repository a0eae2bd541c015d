import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

// What users install: the tarball, unpacked beside the packages that it asks for.

const root = fileURLToPath(new URL('..', import.meta.url))
const name = 'fastify-resumable-sse'

/** Runs a command without what tap loads into every process under its tests. */
function run(directory: string, ...command: string[]): Promise<{ stdout: string }> {
  return promisify(execFile)('env', ['-u', 'NODE_OPTIONS', ...command], { cwd: directory })
}

const serve = `
  const fastify = Fastify()
  await fastify.register(streamPlugin)
  fastify.get('/', (request, reply) => reply.sseFromGenerator(async function* () { yield 'hello' }))
  const { body } = await fastify.inject('/')
  await fastify.close()
  console.log(body.includes('data: hello\\n'))
`

t.test('the packed tarball', async (t) => {
  const consumer = t.testdir({
    'import.mjs': `
      import Fastify from 'fastify'
      import streamPlugin, { streamPlugin as named } from '${name}'
      import { redisStore } from '${name}/redis'
      if (typeof redisStore !== 'function') throw new Error('no store')
      if (named !== streamPlugin) throw new Error('two plugins')
      ${serve}`,
    'require.cjs': `
      const Fastify = require('fastify')
      const { default: streamPlugin } = require('${name}')
      ;(async () => {${serve}})()`,
    'consumer.ts': readFileSync(new URL('fixtures/consumer.ts', import.meta.url), 'utf8'),
    'package.json': JSON.stringify({ type: 'module' }),
    'tsconfig.json': JSON.stringify({
      compilerOptions: {
        noEmit: true,
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        module: 'nodenext',
        target: 'es2023',
        types: ['node']
      }
    })
  })
  const modules = join(consumer, 'node_modules')
  const installed = join(modules, name)
  mkdirSync(installed, { recursive: true })
  const { stdout } = await run(root, 'npm', 'pack', '--json', '--pack-destination', consumer)
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf('[\n'))) as [{ filename: string; files: { path: string }[] }]
  await run(consumer, 'tar', '-xzf', packed.filename, '-C', installed, '--strip-components=1')
  const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'))

  t.test('has the built files and the texts, nothing else', async (t) => {
    const paths = packed.files.map(({ path }) => path)
    for (const path of ['LICENSE', 'README.md', 'CHANGELOG.md', 'package.json', 'dist/index.js', 'dist/index.d.ts']) {
      t.ok(paths.includes(path), path)
    }
    t.same(
      paths.filter((path) => !/^(dist\/.+\.(js|d\.ts)|LICENSE|[A-Z]+\.md|package\.json)$/.test(path)),
      []
    )
  })

  t.test('imports nothing but what it asks for', async (t) => {
    // Clients of stores are the user's, and none has to be installed.
    t.strictSame(Object.keys(manifest.peerDependenciesMeta), ['ioredis', 'iovalkey', 'redis'])
    const peers = Object.keys(manifest.peerDependencies).filter((peer) => !(peer in manifest.peerDependenciesMeta))
    const allowed = new Set([...Object.keys(manifest.dependencies), ...peers])
    t.same(Object.keys(manifest.dependencies).toSorted(), ['@fastify/error', 'fastify-plugin'])
    for (const file of readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' })) {
      if (!/\.(js|d\.ts)$/.test(file)) continue
      const text = readFileSync(join(installed, 'dist', file), 'utf8')
      // Declarations keep the specifiers of the sources; the compiler finds `x.d.ts` for `x.ts`.
      for (const [, specifier = ''] of text.matchAll(/\b(?:from|import)\s*\(?\s*'([^']+)'/g)) {
        if (specifier.startsWith('node:')) continue
        if (specifier.startsWith('.'))
          t.ok(file.endsWith('.d.ts') || specifier.endsWith('.js'), `${file} imports ${specifier}`)
        else t.ok(allowed.has(specifier), `${file} imports ${specifier}`)
      }
    }
  })

  for (const file of ['import.mjs', 'require.cjs']) {
    t.test(`works by ${file.split('.')[0]}`, async (t) => {
      const { stdout } = await run(consumer, process.execPath, file)
      t.equal(stdout.trim(), 'true')
    })
  }

  t.test('gives a TypeScript consumer typed decorators', async (t) => {
    const checked = run(consumer, process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', '.')
    const { stdout } = await checked.catch((error: { stdout: string }) => error)
    t.equal(stdout, '')
  })
})
