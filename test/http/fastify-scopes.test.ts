import { readFileSync } from 'node:fs'
import Fastify from 'fastify'
import t from 'tap'
import streamPlugin, * as exported from '../../src/index.ts'
import { numbers } from '../helpers/numbers.ts'
import { startApp } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

t.test('the plugin is the default export, also by its name', async (t) => {
  t.equal(exported.default, exported.streamPlugin)
})

t.test('it shows through the scope that registers it, under its name', async (t) => {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin)
  t.ok(fastify.sseStreams)
  t.ok(fastify.hasPlugin('fastify-resumable-sse'))
  t.ok(fastify.hasReplyDecorator('sseFromGenerator'))
  t.ok(fastify.hasReplyDecorator('sseAttach'))
})

t.test('sibling scopes have registries of their own', async (t) => {
  const app = await startApp(
    t,
    async (fastify) => {
      for (const prefix of ['/a', '/b']) {
        await fastify.register(
          async (scope) => {
            await scope.register(streamPlugin, { maxActiveStreams: 1 })
            scope.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: 's' }))
            scope.get('/size', async () => ({ size: scope.sseStreams.size }))
            scope.get('/attach', (_, reply) => reply.sseAttach('s'))
          },
          { prefix }
        )
      }
    },
    { plugin: false }
  )
  t.notOk('sseStreams' in app.fastify)
  const a = await app.open('/a/')
  await a.next()
  t.same(await (await app.open('/a/size')).json(), { size: 1 })
  t.same(await (await app.open('/b/size')).json(), { size: 0 })
  t.equal((await app.open('/b/attach')).status, 404)
  const b = await app.open('/b/')
  await b.next()
  t.same(await (await app.open('/a/size')).json(), { size: 1 }, 'no capacity is shared')
  await app.fastify.close()
  t.equal(await a.waitForEnd(), 'truncated')
  t.equal(await b.waitForEnd(), 'truncated')
})

t.test('two servers share nothing', async (t) => {
  const servers = [Fastify(), Fastify()] as const
  for (const server of servers) {
    t.teardown(() => server.close())
    await server.register(streamPlugin)
  }
  await servers[0].sseStreams.start(numbers(1, new StepGate()), { streamId: 's' })
  t.ok(servers[0].sseStreams.get('s'))
  t.equal(servers[1].sseStreams.get('s'), undefined)
})

t.test('a second registration in one scope is a coded error', async (t) => {
  const fastify = Fastify()
  await fastify.register(streamPlugin)
  fastify.register(streamPlugin)
  await t.rejects(async () => fastify.ready(), { code: 'FST_ERR_RSSE_NESTED_REGISTRATION', statusCode: 500 })
})

t.test('a nested registration is a coded error that names the way out', async (t) => {
  const fastify = Fastify()
  await fastify.register(streamPlugin)
  fastify.register(async (scope) => {
    await scope.register(streamPlugin)
  })
  await t.rejects(async () => fastify.ready(), { code: 'FST_ERR_RSSE_NESTED_REGISTRATION', message: /sibling scopes/ })
})

t.test('a child scope uses the registry of its parent', async (t) => {
  const app = await startApp(t, async (fastify) => {
    await fastify.register(async (scope) => {
      scope.get('/child', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's' }))
    })
  })
  await (await app.open('/child')).waitForEnd()
  t.ok(app.fastify.sseStreams.get('s'))
})

t.test('sseStreams cannot be replaced by accident', async (t) => {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(streamPlugin)
  t.throws(() => fastify.decorate('sseStreams', {} as never), { code: 'FST_ERR_DEC_ALREADY_PRESENT' })
})

t.test('fastify is a peer, from the version on that fixed CVE-2026-25224', async (t) => {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const { peerDependencies, peerDependenciesMeta } = manifest
  const needed = Object.keys(peerDependencies).filter((name) => peerDependenciesMeta[name]?.optional !== true)
  t.same(needed, ['fastify'])
  t.equal(peerDependencies.fastify, '^5.7.3')
})
