import t, { type Test } from 'tap'
import type { StreamOptions, StreamPluginOptions } from '../../src/index.ts'
import { numbers } from '../helpers/numbers.ts'
import { severalInstances } from '../helpers/shared-store.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { turn } from '../helpers/turns.ts'

/** Streams that never finish, each under the name in its path; `/attach/…` follows one. */
async function startAll(
  t: Test,
  plugin: StreamPluginOptions,
  options: AppOptions = {},
  call: StreamOptions = {}
): Promise<App> {
  const gate = new StepGate()
  return startApp(
    t,
    (fastify) => {
      const handler = numbers(1, gate)
      fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(handler, { streamId: request.params.id, ...call })
      )
      fastify.post<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(handler, { streamId: request.params.id, ...call })
      )
      fastify.get<{ Params: { id: string } }>('/attach/:id', (request, reply) => reply.sseAttach(request.params.id))
    },
    { plugin, ...options }
  )
}

/** The same; limits are those of one instance. */
async function startRunning(...args: Parameters<typeof startAll>): Promise<App> {
  return (await startAll(...args)).at(0)
}

interface Refusal {
  readonly name: string
  readonly plugin: StreamPluginOptions
  readonly code: string
  /** What is refused while `/first` runs and has a client. */
  readonly path: string
}

const refusals: Refusal[] = [
  {
    name: 'a registry that is full',
    plugin: { maxActiveStreams: 1, whenFull: 'reject' },
    code: 'FST_ERR_RSSE_REGISTRY_FULL',
    path: '/second'
  },
  {
    name: 'an owner with too many streams',
    plugin: { maxStreamsPerOwner: 1, owner: () => 'ada' },
    code: 'FST_ERR_RSSE_TOO_MANY_STREAMS',
    path: '/second'
  },
  {
    name: 'a stream with too many clients',
    plugin: { maxClientsPerStream: 1 },
    code: 'FST_ERR_RSSE_TOO_MANY_CLIENTS',
    path: '/first'
  },
  {
    name: 'an attach to a stream with too many clients',
    plugin: { maxClientsPerStream: 1 },
    code: 'FST_ERR_RSSE_TOO_MANY_CLIENTS',
    path: '/attach/first'
  }
]

for (const { name, plugin, code, path } of refusals) {
  t.test(`${name} answers 503, a coded error and a time to come back`, async (t) => {
    const app = await startRunning(t, plugin)
    await (await app.open('/first')).next()
    const retryAfter = new Set<number>()
    for (const accept of [
      '*/*',
      'application/json',
      'text/html, */*;q=0.1',
      'text/event-streams',
      'application/json',
      '*/*'
    ]) {
      const client = await app.open(path, { headers: { accept } })
      t.equal(client.status, 503)
      t.match(client.headers['content-type'], 'application/json')
      t.match(await client.json(), { code, statusCode: 503, error: 'Service Unavailable' })
      const seconds = Number(client.headers['retry-after'])
      t.ok(Number.isInteger(seconds) && seconds >= 1, String(client.headers['retry-after']))
      retryAfter.add(seconds)
    }
    t.equal(app.streams.stats().rejected, 6)
    t.equal(app.streams.stats().started, 1)
    t.equal(app.streams.get('first', { ...(plugin.owner && { owner: 'ada' }) })?.clients, 1)
  })

  t.test(`${name} tells an EventSource, which a 503 would close for ever, to come back later`, async (t) => {
    const app = await startRunning(t, { ...plugin, retry: 1_000 })
    await (await app.open('/first')).next()
    for (const accept of ['text/event-stream', 'text/html, text/event-stream;q=0.9', 'TEXT/Event-Stream']) {
      const client = await app.open(path, { headers: { accept } })
      t.equal(client.status, 200)
      t.equal(client.headers['content-type'], 'text/event-stream')
      t.equal(client.headers['cache-control'], 'no-store, no-transform')
      t.equal(await client.waitForEnd(), 'truncated')
      t.match(client.text, /^retry: \d+\n\n$/)
      const [retry = 0] = client.retries
      t.ok(retry >= 2_500 && retry <= 7_500, `${retry} is 5 × 1000 ± 50 %`)
    }
    t.equal(app.streams.stats().started, 1)
  })
}

for (const { name, plugin, path } of refusals) {
  t.test(`${name} answers HEAD with the status of the GET`, async (t) => {
    const app = await startRunning(t, plugin)
    await (await app.open('/first')).next()
    for (const [accept, status] of [
      ['*/*', 503],
      ['text/event-stream', 200]
    ] as const) {
      const client = await app.open(path, { method: 'HEAD', headers: { accept } })
      t.equal(client.status, status)
      t.equal('retry-after' in client.headers, status === 503)
      t.equal(await client.waitForEnd(), 'end')
      t.equal(client.bytes.length, 0)
    }
    t.match(app.streams.stats(), { started: 1, clients: 1, rejected: 2 })
  })
}

t.test('a POST is no EventSource: it gets the 503 whatever it accepts', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject' })
  await (await app.open('/first')).next()
  const client = await app.open('/second', { body: {} })
  t.equal(client.status, 503)
  t.match(await client.json(), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
})

t.test('over HTTP/2 the refused EventSource sees a truncated body too', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject' }, { http2: true })
  await (await app.open('/first')).next()
  const client = await app.open('/second')
  t.equal(client.status, 200)
  t.equal(await client.waitForEnd(), 'truncated')
  t.match(client.text, /^retry: \d+\n\n$/)
})

t.test('with retry: false a refusal names no delay', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject', retry: false })
  await (await app.open('/first')).next()
  const client = await app.open('/second')
  t.equal(client.status, 200)
  t.equal(await client.waitForEnd(), 'truncated')
  t.same(client.retries, [])
})

t.test('a delay of a refusal never exceeds what clients can take', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject', retry: 2_147_483_647 })
  await (await app.open('/first')).next()
  const client = await app.open('/second')
  await client.waitForEnd()
  t.ok((client.retries[0] ?? NaN) <= 2_147_483_647)
})

t.test('the retry of the call counts for a refusal', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject' }, {}, { retry: 100 })
  await (await app.open('/first')).next()
  const client = await app.open('/second')
  await client.waitForEnd()
  const [retry = 0] = client.retries
  t.ok(retry >= 250 && retry <= 750, String(retry))
})

t.test('an existing stream is attached to in a full registry', async (t) => {
  const app = await startRunning(t, { maxActiveStreams: 1, whenFull: 'reject' })
  await (await app.open('/first')).next()
  const client = await app.open('/first')
  t.equal((await client.next()).event, 'stream-start')
})

t.test('a client that left makes room for the next one', async (t) => {
  const app = await startRunning(t, { maxClientsPerStream: 1 })
  const first = await app.open('/first')
  await first.drop()
  // The server learns of it a moment after the client: come back until it has.
  for (let status = 503; status === 503;) status = (await app.open('/first', { headers: { accept: '*/*' } })).status
  t.equal(app.streams.get('first')?.clients, 1)
})

t.test('a finished stream gives way before anyone is refused', async (t) => {
  const all = await startApp(
    t,
    (fastify) =>
      fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
        reply.sseFromGenerator(numbers(1), { streamId: request.params.id })
      ),
    { plugin: { maxActiveStreams: 1, whenFull: 'reject' } }
  )
  const app = all.at(0)
  await (await app.open('/first')).waitForEnd()
  await all.untilShared('first')
  const client = await app.open('/second')
  t.equal(await client.waitForEnd(), 'end')
  t.same(client.data, ['1'])
  t.equal(app.streams.get('first'), undefined)
})

t.test('the limit of one owner does not touch another', async (t) => {
  const app = await startRunning(t, { maxStreamsPerOwner: 1, owner: (request) => String(request.headers['x-user']) })
  const accept = '*/*'
  t.equal((await app.open('/a', { headers: { accept, 'x-user': 'ada' } })).status, 200)
  t.equal((await app.open('/b', { headers: { accept, 'x-user': 'bob' } })).status, 200)
  t.equal((await app.open('/c', { headers: { accept, 'x-user': 'ada' } })).status, 503)
})

t.test('while draining', async (t) => {
  interface Draining {
    readonly app: App
    readonly others: App
    readonly gate: StepGate
    readonly closed: Promise<undefined>
  }

  /** A server in its drain phase: one stream still runs, the listener still takes requests. */
  async function startDraining(t: Test, plugin: StreamPluginOptions): Promise<Draining> {
    const gate = new StepGate()
    const all = await startApp(
      t,
      (fastify) => {
        fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
          reply.sseFromGenerator(numbers(1, gate), { streamId: request.params.id })
        )
      },
      { plugin: { drainTimeout: 5_000, ...plugin }, fastify: { return503OnClosing: false } }
    )
    const app = all.at(0)
    await (await app.open('/running')).next()
    const closed = app.fastify.close()
    for (let isRefused = false; !isRefused;) {
      isRefused = await app.streams.start(numbers(0)).then(
        () => false,
        () => true
      )
      await turn()
    }
    return { app, others: all.at(1), gate, closed }
  }

  for (const path of ['/new', '/running']) {
    t.test(`${path} is told to come back when we are gone`, async (t) => {
      const { app, gate, closed } = await startDraining(t, { retry: 10 })
      const client = await app.open(path)
      t.equal(client.status, 200)
      t.equal(await client.waitForEnd(), 'truncated')
      const [retry = 0] = client.retries
      t.ok(retry >= 1_000, `${retry} is the floor of the shutdown, not 5 × 10 ms`)
      gate.release(1)
      await closed
    })
  }

  t.test('5 × retry counts where it is the larger one', async (t) => {
    const { app, gate, closed } = await startDraining(t, { retry: 1_000_000 })
    const client = await app.open('/new')
    await client.waitForEnd()
    const [retry = 0] = client.retries
    t.ok(retry >= 2_500_000, String(retry))
    gate.release(1)
    await closed
  })

  t.test('another instance goes on serving what runs here', severalInstances, async (t) => {
    const { others, gate, closed } = await startDraining(t, {})
    const client = await others.open('/running')
    await client.next()
    gate.release(1)
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1'])
    await closed
    const late = await others.open('/running')
    await late.waitForEnd()
    t.same(late.data, ['1'])
  })

  t.test('with retry: false it is truncated without a word', async (t) => {
    const { app, gate, closed } = await startDraining(t, { retry: false })
    const client = await app.open('/new')
    t.equal(await client.waitForEnd(), 'truncated')
    t.same(client.retries, [])
    gate.release(1)
    await closed
  })

  t.test('what is not an EventSource gets 503 or the same answer, and nothing is started', async (t) => {
    const { app, gate, closed } = await startDraining(t, {})
    const client = await app.open('/new', { headers: { accept: 'application/json' } })
    await client.waitForEnd()
    t.equal(app.streams.get('new'), undefined)
    gate.release(1)
    await closed
  })
})

t.test('on several instances', severalInstances, async (t) => {
  const accept = '*/*'

  for (const whenFull of ['evict', 'reject'] as const) {
    t.test(`a stream of another one displaces none that runs, with whenFull: '${whenFull}'`, async (t) => {
      const app = await startAll(t, { maxActiveStreams: 1, whenFull })
      await app.at(0).open('/first')
      await app.at(1).open('/second')
      for (const path of ['/first', '/attach/first']) {
        const refused = await app.at(1).open(path, { headers: { accept } })
        t.equal(refused.status, 503)
        t.match(await refused.json(), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
        const sentAway = await app.at(1).open(path)
        t.equal(await sentAway.waitForEnd(), 'truncated')
        t.match(sentAway.text, /^retry: \d+\n\n$/)
      }
      t.match(app.streams.stats(), { running: 2, started: 2, evicted: 0 })
    })
  }

  t.test('replicas give way to what is started', async (t) => {
    const app = await startAll(t, { maxActiveStreams: 1, whenFull: 'reject' })
    await app.at(0).open('/first')
    const client = await app.at(1).open('/first')
    await client.next()
    t.equal((await app.at(1).open('/second', { headers: { accept } })).status, 200)
    t.match(app.streams.stats(), { running: 2, evicted: 0 })
  })

  t.test('an owner with too many streams attaches to those that run elsewhere', async (t) => {
    const app = await startAll(t, { maxStreamsPerOwner: 1, owner: () => 'ada' })
    await app.at(0).open('/first')
    await app.at(1).open('/second')
    const client = await app.at(1).open('/first', { headers: { accept } })
    t.equal(client.status, 200)
    t.equal((await client.next()).event, 'stream-start')
    t.equal((await app.at(1).open('/third', { headers: { accept } })).status, 503)
    t.equal(app.streams.stats().started, 2)
  })

  t.test('each has clients of its own', async (t) => {
    const app = await startAll(t, { maxClientsPerStream: 1 })
    for (const status of [200, 200, 503, 503]) {
      t.equal((await app.open('/first', { headers: { accept } })).status, status)
    }
    t.equal(app.streams.get('first')?.clients, 2)
  })
})
