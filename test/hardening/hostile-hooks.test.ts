import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { EventEmitter, once } from 'node:events'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { LogLines } from '../helpers/log-lines.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers } from '../helpers/numbers.ts'
import { sendSse, type SseRequest } from '../helpers/sse-client.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

type SetUp = (fastify: FastifyInstance) => unknown

interface Stage {
  readonly app: App
  readonly clock: ManualClock
  readonly gate: StepGate
  readonly logs: LogLines
}

/** Two numbers at `/` (GET and POST), on a gate; `hook` is there before the plugin, `lateHook` after it. */
async function startStage(t: Test, hook: SetUp, options: AppOptions = {}, lateHook: SetUp = () => {}): Promise<Stage> {
  const clock = new ManualClock()
  const gate = new StepGate()
  const logs = new LogLines()
  const handler = numbers(2, gate)
  const app = await startApp(
    t,
    (fastify) => {
      lateHook(fastify)
      fastify.route({
        method: ['GET', 'POST'],
        url: '/',
        handler: (_, reply) => reply.sseFromGenerator(handler, { streamId: 's' })
      })
    },
    {
      before: hook,
      clock,
      fastify: logs.fastify,
      ...options,
      plugin: { bufferTTL: 0, heartbeatInterval: 0, stallTimeout: Infinity, ...options.plugin }
    }
  )
  return { app, clock, gate, logs }
}

/** Whatever runs ends, and then nothing is left. */
async function assertNothingStays(t: Test, { app, clock, gate }: Stage): Promise<void> {
  gate.release(2)
  await eventually('the registry is empty', () => app.fastify.sseStreams.size === 0)
  const { running, clients, bufferedBytes } = app.fastify.sseStreams.stats()
  t.strictSame({ running, clients, bufferedBytes }, { running: 0, clients: 0, bufferedBytes: 0 })
  t.equal(clock.pending, 0, 'no timer is left')
}

function boom(): never {
  throw new Error('boom')
}

// ── before the handler ───────────────────────────────────────────────────────────────────────────────────────────────

const earlyHooks = ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const

const refusals: Record<string, (request: FastifyRequest, reply: FastifyReply) => unknown> = {
  throws: boom,
  rejects: async () => boom(),
  'rejects with undefined': () => Promise.reject(undefined),
  'replies early': async (_, reply) => reply.code(403).send({ message: 'no' })
}

t.test('a hook before the handler', async (t) => {
  for (const name of earlyHooks) {
    for (const [what, act] of Object.entries(refusals)) {
      t.test(`${name} ${what}: an ordinary response, and no stream`, async (t) => {
        const hook = (request: FastifyRequest, reply: FastifyReply): unknown => act(request, reply)
        const stage = await startStage(t, (fastify) => fastify.addHook(name as 'onRequest', hook as never))
        const client = await stage.app.open('/')
        t.equal(client.status, what === 'replies early' ? 403 : 500)
        t.equal(await client.waitForEnd(), 'end')
        t.equal(stage.app.fastify.sseStreams.stats().started, 0)
        await assertNothingStays(t, stage)
      })
    }
  }
})

// ── onSend ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const onSendHooks: Record<string, SetUp> = {
  throws: (fastify) =>
    fastify.addHook('onSend', (_request, _reply, _payload, _done): void => {
      boom()
    }),
  'passes an error on': (fastify) =>
    fastify.addHook('onSend', (_request, _reply, _payload, done) => done(new Error('boom') as never)),
  'passes an error on later': (fastify) =>
    fastify.addHook(
      'onSend',
      (_request, _reply, _payload, done) => void setImmediate(() => done(new Error('boom') as never))
    ),
  rejects: (fastify) => fastify.addHook('onSend', async () => boom()),
  'rejects with undefined': (fastify) =>
    fastify.addHook('onSend', async () => {
      throw undefined
    }),
  'rejects with an error whose message getter throws': (fastify) =>
    fastify.addHook('onSend', async () => {
      throw Object.defineProperty(new Error('hidden'), 'message', { get: boom })
    })
}

const onErrorHooks: Record<string, SetUp> = {
  'no onError hook': () => {},
  'an onError hook that throws': (fastify) =>
    fastify.addHook('onError', (_request, _reply, _error, _done): void => {
      throw new Error('onError throws')
    }),
  'an onError hook that rejects': (fastify) =>
    fastify.addHook('onError', async () => {
      throw new Error('onError rejects')
    }),
  'an onError hook that takes its time': (fastify) =>
    fastify.addHook('onError', (_request, _reply, _error, done) => void setImmediate(done)),
  'an error handler that throws': (fastify) =>
    fastify.setErrorHandler(() => {
      throw new Error('the error handler throws')
    }),
  'an error handler that rejects': (fastify) =>
    fastify.setErrorHandler(async () => {
      throw new Error('the error handler rejects')
    })
}

t.test('an onSend hook that fails', async (t) => {
  for (const protocol of ['http/1.1', 'h2'] as const) {
    for (const [what, addOnSend] of Object.entries(onSendHooks)) {
      for (const [and, addOnError] of Object.entries(onErrorHooks)) {
        t.test(`${what}, with ${and}, over ${protocol}: the client gets an error, the run goes on`, async (t) => {
          // An onError hook that fails keeps those after it from running, ours too: hence "register the plugin first".
          const stage = await startStage(t, addOnSend, { http2: protocol === 'h2' }, addOnError)
          const { app, gate } = stage
          const client = await app.open('/')
          t.equal(client.status, 500)
          t.equal(await client.waitForEnd(), 'end')
          t.ok(stage.logs.complaints.length > 0, 'the log says what happened')
          t.equal(app.fastify.sseStreams.get('s')?.clients, 0)
          gate.release(2)
          await assertNothingStays(t, stage)
          t.equal(app.fastify.sseStreams.stats().completed, 1)
        })
      }
    }
  }
})

t.test('an onSend hook that puts another payload in its place', async (t) => {
  for (const [what, payload] of Object.entries({ 'a string': 'instead', 'a buffer': Buffer.from('instead') })) {
    t.test(`${what} is what the client gets, and no client is left on the stream`, async (t) => {
      const stage = await startStage(t, (fastify) => fastify.addHook('onSend', async () => payload))
      const client = await stage.app.open('/')
      t.equal(await client.waitForEnd(), 'end')
      t.equal(client.text, 'instead')
      await assertNothingStays(t, stage)
    })
  }
})

t.test('an onSend hook that destroys the response leaves nothing behind', async (t) => {
  const stage = await startStage(t, (fastify) =>
    fastify.addHook('onSend', async (_request, reply, payload) => {
      reply.raw.destroy()
      return payload
    })
  )
  await t.rejects(stage.app.open('/'))
  await assertNothingStays(t, stage)
})

t.test('an onSend hook that ends only after close() has given up on its client does not hold close() up', async (t) => {
  const hook = new EventEmitter()
  const isEntered = once(hook, 'entered')
  const stage = await startStage(t, (fastify) =>
    fastify.addHook('onSend', async (_request, _reply, payload) => {
      hook.emit('entered')
      await once(hook, 'leave')
      return payload
    })
  )
  const { app, clock } = stage
  const opening = app.open('/').catch(() => undefined)
  await isEntered
  let isClosed = false
  const closing = app.fastify.close().then(() => (isClosed = true))
  await eventually('everybody had the time to leave', () => {
    clock.advance(1_000)
    return app.fastify.sseStreams.size === 0
  })
  hook.emit('leave')
  const client = await opening
  if (client !== undefined) t.equal(await client.waitForEnd(), 'truncated')
  await closing
  t.ok(isClosed)
})

// ── after the response ───────────────────────────────────────────────────────────────────────────────────────────────

t.test('an onResponse hook that fails changes nothing', async (t) => {
  for (const [what, hook] of Object.entries<() => unknown>({ throws: boom, rejects: async () => boom() })) {
    t.test(what, async (t) => {
      const stage = await startStage(t, (fastify) => fastify.addHook('onResponse', hook as () => Promise<void>))
      const client = await stage.app.open('/')
      stage.gate.release(2)
      t.equal(await client.waitForEnd(), 'end')
      t.strictSame(client.data, ['1', '2'])
      await assertNothingStays(t, stage)
    })
  }
})

t.test('an onRequestAbort hook that fails changes nothing', async (t) => {
  const stage = await startStage(t, (fastify) => fastify.addHook('onRequestAbort', async (_request) => boom()))
  const client = await stage.app.open('/')
  await client.drop()
  await eventually('the client is gone', () => stage.app.fastify.sseStreams.stats().clients === 0)
  await assertNothingStays(t, stage)
})

t.test('a preClose hook of somebody else that fails does not hold up close()', async (t) => {
  for (const [what, hook] of Object.entries<() => unknown>({
    throws: () => boom(),
    rejects: async () => boom(),
    'resolves to something': async () => 'something'
  })) {
    for (const position of ['before', 'after'] as const) {
      t.test(`${what}, registered ${position} the plugin`, async (t) => {
        const add: SetUp = (fastify) => fastify.addHook('preClose', hook as () => Promise<void>)
        const { app } = await startStage(t, position === 'before' ? add : () => {}, { clock: undefined })
        const client = await app.open('/')
        const closing = app.fastify.close().then(
          () => 'closed',
          () => 'closed'
        )
        t.equal(await client.waitForEnd(), 'truncated')
        t.equal(await closing, 'closed')
      })
    }
  }
})

// ── misuse of the reply ──────────────────────────────────────────────────────────────────────────────────────────────

t.test('a handler that', async (t) => {
  const misuses: Record<string, (reply: FastifyReply) => unknown> = {
    'answers twice with a stream': (reply) => {
      reply.sseFromGenerator(() => ['one'])
      return reply.sseFromGenerator(() => ['two'])
    },
    'sends after the stream': (reply) => {
      reply.sseFromGenerator(() => ['one'])
      return reply.send('two')
    },
    'throws after the stream': (reply) => {
      reply.sseFromGenerator(() => ['one'])
      return boom()
    },
    'rejects after the stream': async (reply) => {
      reply.sseFromGenerator(() => ['one'])
      await null
      return boom()
    },
    'returns something else than the reply': (reply) => {
      reply.sseFromGenerator(() => ['one'])
      return 'two'
    },
    'returns nothing': (reply) => {
      reply.sseFromGenerator(() => ['one'])
    },
    'resolves to nothing': async (reply) => {
      reply.sseFromGenerator(() => ['one'])
    }
  }
  for (const protocol of ['http/1.1', 'h2'] as const) {
    for (const [what, act] of Object.entries(misuses)) {
      t.test(`${what}, over ${protocol}: its client gets the first stream`, async (t) => {
        const stage = await startStage(
          t,
          (fastify) => {
            fastify.get('/misuse', (_, reply) => act(reply) as never)
          },
          { http2: protocol === 'h2' }
        )
        const client = await stage.app.open('/misuse')
        t.equal(await client.waitForEnd(), 'end')
        t.strictSame(client.data, ['one'])
        await assertNothingStays(t, stage)
      })
    }
  }

  t.test('answers with a stream after it has answered, leaves no client on it', async (t) => {
    const stage = await startStage(t, (fastify) => {
      fastify.get('/misuse', async (_, reply) => {
        await reply.send('first')
        return reply.sseFromGenerator(() => ['late'])
      })
    })
    const client = await stage.app.open('/misuse')
    t.equal(await client.waitForEnd(), 'end')
    t.equal(client.text, 'first')
    await assertNothingStays(t, stage)
  })
})

// ── a client that leaves ─────────────────────────────────────────────────────────────────────────────────────────────

/** Says that it was entered, waits until the client has left, and goes on as if nothing was. */
class Abandoned {
  readonly #events = new EventEmitter()
  readonly entered: Promise<unknown> = once(this.#events, 'entered')
  readonly isOver: Promise<unknown> = once(this.#events, 'over')

  async wait(request: FastifyRequest): Promise<void> {
    const { socket } = request.raw
    const gone = once(socket, 'close').catch(() => {})
    this.#events.emit('entered')
    await gone
    setImmediate(() => this.#events.emit('over'))
  }
}

const abandonments: Record<string, (fastify: FastifyInstance, abandoned: Abandoned) => unknown> = {
  ...Object.fromEntries(
    (['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const).map((name) => [
      name,
      (fastify: FastifyInstance, abandoned: Abandoned) =>
        fastify.addHook(name as 'onRequest', (request) => abandoned.wait(request))
    ])
  ),
  onSend: (fastify, abandoned) => fastify.addHook('onSend', (request) => abandoned.wait(request)),
  'onSend, which then throws': (fastify, abandoned) =>
    fastify.addHook('onSend', async (request) => {
      await abandoned.wait(request)
      boom()
    }),
  'onError after onSend': (fastify, abandoned) => {
    fastify.addHook('onSend', async () => boom())
    fastify.addHook('onError', (request) => abandoned.wait(request))
  },
  'its own handler': (fastify, abandoned) =>
    fastify.get('/abandoned', async (request, reply) => {
      await abandoned.wait(request)
      return reply.sseFromGenerator(() => ['late'])
    })
}

const requests: Record<string, SseRequest> = {
  'GET over HTTP/1.1': { protocol: 'http/1.1' },
  'POST over HTTP/1.1': { protocol: 'http/1.1', body: { some: 'body' } },
  'GET over HTTP/1.0': { protocol: 'http/1.0' },
  'GET over HTTP/2': { protocol: 'h2' },
  'POST over HTTP/2': { protocol: 'h2', body: { some: 'body' } }
}

t.test('a client that leaves during', async (t) => {
  for (const [where, addHook] of Object.entries(abandonments)) {
    for (const [what, request] of Object.entries(requests)) {
      if (where === 'its own handler' && what.startsWith('POST')) continue
      t.test(`${where} (${what}) leaves nothing behind`, async (t) => {
        const abandoned = new Abandoned()
        const stage = await startStage(t, (fastify) => addHook(fastify, abandoned), {
          http2: request.protocol === 'h2',
          plugin: { orphanTimeout: 0 }
        })
        const { app } = stage
        const client = sendSse(t, app.port, where === 'its own handler' ? '/abandoned' : '/', request)
        await abandoned.entered
        await client.drop()
        // Before the body is read it gets no further: Fastify meets a connection that is gone.
        if (request.body !== undefined && (where === 'onRequest' || where === 'preParsing')) await abandoned.isOver
        else await eventually('the server is done with it', () => app.fastify.sseStreams.stats().started === 1)
        await eventually('nobody is attached', () => app.fastify.sseStreams.stats().clients === 0)
        await assertNothingStays(t, stage)
      })
    }
  }
})
