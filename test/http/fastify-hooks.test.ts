import fastifyCompress from '@fastify/compress'
import fastifyCookie from '@fastify/cookie'
import fastifyCors from '@fastify/cors'
import fastifyHelmet from '@fastify/helmet'
import fastifyRateLimit from '@fastify/rate-limit'
import fastifySession from '@fastify/session'
import { AsyncLocalStorage } from 'node:async_hooks'
import { EventEmitter, getEventListeners, once } from 'node:events'
import { get } from 'node:http'
import { connect } from 'node:net'
import { PassThrough, Readable, Transform } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers } from '../helpers/numbers.ts'
import type { SseClient } from '../helpers/sse-client.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { turn } from '../helpers/turns.ts'

declare module 'fastify' {
  interface Session {
    seen?: number
  }
}

t.test('a route', async (t) => {
  type Handle = (request: FastifyRequest, reply: FastifyReply) => unknown
  const handlers: Record<string, Handle> = {
    'that returns the reply': (_, reply) => reply.sseFromGenerator(numbers(2)),
    'that returns nothing': (_, reply) => {
      reply.sseFromGenerator(numbers(2))
    },
    'that is async and returns the reply': async (_, reply) => reply.sseFromGenerator(numbers(2)),
    'that is async and returns nothing': async (_, reply) => {
      reply.sseFromGenerator(numbers(2))
    },
    'that is async, waits first, and returns nothing': async (_, reply) => {
      await turn()
      reply.sseFromGenerator(numbers(2))
    },
    'that is async and waits afterwards': async (_, reply) => {
      reply.sseFromGenerator(numbers(2))
      await turn()
      return reply
    }
  }
  for (const [name, handle] of Object.entries(handlers)) {
    for (const http2 of [false, true]) {
      for (const method of ['GET', 'POST'] as const) {
        t.test(`${name}, by ${method} on ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
          const app = await startApp(
            t,
            (fastify) => fastify.route({ method: ['GET', 'POST'], url: '/', handler: handle }),
            {
              http2
            }
          )
          const client = await app.open('/', method === 'POST' ? { body: { prompt: 'x'.repeat(1_000) } } : {})
          t.equal(client.status, 200)
          t.equal(client.headers['content-type'], 'text/event-stream')
          t.equal(await client.waitForEnd(), 'end')
          t.same(client.data, ['1', '2'])
        })
      }
    }
  }

  t.test('sees the body of a POST, and the stream outlives the end of its upload', async (t) => {
    const gate = new StepGate()
    const app = await startApp(t, (fastify) =>
      fastify.post<{ Body: { words: string[] } }>('/', (request, reply) =>
        reply.sseFromGenerator(async function* (signal) {
          for (const word of request.body.words) {
            await gate.pass(signal)
            yield word
          }
        })
      )
    )
    const client = await app.open('/', { body: { words: ['a', 'b'] } })
    gate.release(1)
    await client.waitForData(1)
    gate.release(1)
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['a', 'b'])
  })

  t.test('that sets a status code first streams nevertheless with 200', async (t) => {
    const app = await startApp(t, (fastify) =>
      fastify.get('/', (_, reply) => reply.code(200).header('x-a', '1').sseFromGenerator(numbers(1)))
    )
    t.equal((await app.open('/')).headers['x-a'], '1')
  })
})

t.test('inject with payloadAsStream reads the stream as it runs', async (t) => {
  const gate = new StepGate()
  const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(2, gate))))
  const response = await app.fastify.inject({ url: '/', payloadAsStream: true })
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/event-stream')
  let text = ''
  gate.release(1)
  for await (const bytes of response.stream()) {
    text += String(bytes)
    if (text.includes('data: 1\n') && !text.includes('data: 2\n')) gate.release(1)
  }
  t.match(text, /data: 1\n.*data: 2\n.*event: stream-end\n/s)
})

t.test('inject reads a whole stream', async (t) => {
  const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(3))))
  const response = await app.fastify.inject('/')
  t.match(response.body, /data: 3\n.*\.end\n\n$/s)
  t.equal(app.fastify.sseStreams.stats().clients, 0)
})

t.test("a route's handlerTimeout does not cut a stream", async (t) => {
  const gate = new StepGate()
  const app = await startApp(t, (fastify) => {
    const options = { handlerTimeout: 30 }
    fastify.get('/knows-timeouts', (request, reply) => reply.send('signal' in request))
    fastify.get('/', options, (_, reply) => reply.sseFromGenerator(numbers(1, gate)))
    fastify.get('/silent', options, async () => new Promise(() => {}))
    fastify.get('/async', options, async (_, reply) => {
      reply.sseFromGenerator(numbers(1, gate))
    })
  })
  // Fastify 5.7 has neither `request.signal` nor `handlerTimeout`.
  if ((await app.fastify.inject('/knows-timeouts')).body !== 'true') return
  const clients = await Promise.all([app.open('/'), app.open('/async')])
  // The timers of the streams are older than the one that answers here.
  t.equal((await app.open('/silent')).status, 503)
  gate.release(2)
  for (const client of clients) {
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1'])
  }
})

t.test('other plugins take part in the response', async (t) => {
  async function openBehind(
    t: Test,
    register: (fastify: FastifyInstance) => unknown,
    options?: AppOptions
  ): Promise<App> {
    const setUp = async (fastify: FastifyInstance): Promise<void> => {
      await register(fastify)
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(2)))
    }
    return startApp(t, setUp, options)
  }

  t.test('cors', async (t) => {
    const app = await openBehind(t, (fastify) =>
      fastify.register(fastifyCors, {
        origin: ['https://app.example'],
        credentials: true,
        exposedHeaders: ['stream-id']
      })
    )
    const client = await app.open('/', { headers: { origin: 'https://app.example' } })
    t.match(client.headers, {
      'access-control-allow-origin': 'https://app.example',
      'access-control-allow-credentials': 'true',
      'access-control-expose-headers': 'stream-id',
      vary: /origin/i
    })
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  t.test('cookie', async (t) => {
    const app = await startApp(t, async (fastify) => {
      await fastify.register(fastifyCookie)
      fastify.get('/', (_, reply) => reply.setCookie('a', '1').setCookie('b', '2').sseFromGenerator(numbers(2)))
    })
    const client = await app.open('/')
    const cookies = client.head.rawHeaders.filter(([name]) => name.toLowerCase() === 'set-cookie')
    t.same(
      cookies.map(([, value]) => value.split(';')[0]),
      ['a=1', 'b=2']
    )
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  t.test('session, whose store answers later', async (t) => {
    const app = await startApp(t, async (fastify) => {
      await fastify.register(fastifyCookie)
      await fastify.register(fastifySession, { secret: 's'.repeat(32), cookie: { secure: false } })
      fastify.get('/', (request, reply) => {
        request.session.seen = (request.session.seen ?? 0) + 1
        const { seen } = request.session
        return reply.sseFromGenerator(() => [String(seen)])
      })
    })
    const first = await app.open('/')
    await first.waitForEnd()
    t.same(first.data, ['1'])
    const cookie = String(first.headers['set-cookie']).split(';')[0] ?? ''
    t.match(cookie, /^sessionId=/)
    const second = await app.open('/', { headers: { cookie } })
    await second.waitForEnd()
    t.same(second.data, ['2'], 'the session was saved')
  })

  t.test('helmet', async (t) => {
    const app = await openBehind(t, (fastify) => fastify.register(fastifyHelmet))
    const client = await app.open('/')
    t.match(client.headers, { 'x-frame-options': 'SAMEORIGIN', 'x-content-type-options': 'nosniff' })
    t.match(client.headers['content-security-policy'], "default-src 'self'")
    t.equal(await client.waitForEnd(), 'end')
  })

  t.test('rate-limit', async (t) => {
    const app = await openBehind(t, (fastify) => fastify.register(fastifyRateLimit, { max: 1, timeWindow: '1 hour' }))
    const client = await app.open('/')
    t.match(client.headers, { 'x-ratelimit-limit': '1', 'x-ratelimit-remaining': '0' })
    t.equal(await client.waitForEnd(), 'end')
    t.equal((await app.open('/')).status, 429)
  })

  t.test('compress leaves event streams alone unless it is told otherwise', async (t) => {
    const app = await openBehind(t, (fastify) => fastify.register(fastifyCompress, { threshold: 0 }))
    const client = await app.open('/', { headers: { 'accept-encoding': 'gzip' } })
    t.notOk('content-encoding' in client.headers)
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  // Not wise, since an encoder holds events back, but nothing may be lost.
  const compress = { threshold: 0, customTypes: /event-stream/ }
  for (const encoding of ['gzip', 'br', 'deflate']) {
    t.test(`compress with ${encoding} changes no byte of the body`, async (t) => {
      const app = await openBehind(t, (fastify) => fastify.register(fastifyCompress, compress))
      const response = await fetch(`http://127.0.0.1:${app.port}/`, { headers: { 'accept-encoding': encoding } })
      t.equal(response.headers.get('content-encoding'), encoding)
      t.match(await response.text(), /data: 1\nid: .*\.1\n\ndata: 2\nid: .*\.2\n\nevent: stream-end\n.*\.end\n\n$/s)
    })

    t.test(`a truncation through ${encoding} is an error to its client`, async (t) => {
      const app = await startApp(t, async (fastify) => {
        await fastify.register(fastifyCompress, compress)
        fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: 's' }))
      })
      // Brotli holds back even the head until it has something to say.
      const headers = { 'accept-encoding': encoding }
      const reading = fetch(`http://127.0.0.1:${app.port}/`, { headers }).then((response) => response.text())
      reading.catch(() => {})
      await eventually('its client', () => app.fastify.sseStreams.get('s')?.clients === 1)
      await app.fastify.close()
      await t.rejects(reading)
    })
  }

  t.test('what is truncated over HTTP/2 before its head was sent', async (t) => {
    const headers = { 'accept-encoding': 'br' }
    const head = { 'content-type': 'text/event-stream', 'content-encoding': 'br' }
    const refusing = { maxActiveStreams: 1, whenFull: 'reject' } as const

    /** Streams that never finish, each under the name in its path. */
    async function openEndless(
      t: Test,
      register: (fastify: FastifyInstance) => unknown,
      options: AppOptions
    ): Promise<App> {
      const setUp = async (fastify: FastifyInstance): Promise<void> => {
        await register(fastify)
        fastify.get<{ Params: { id: string } }>('/:id', (request, reply) =>
          reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: request.params.id })
        )
      }
      return (await startApp(t, setUp, { http2: true, ...options })).at(0)
    }
    const openCompressed = (t: Test, options: AppOptions): Promise<App> =>
      openEndless(t, (fastify) => fastify.register(fastifyCompress, compress), options)

    const truncations: Record<string, (app: App, clock: ManualClock) => unknown> = {
      'a shutdown': (app) => app.fastify.close(),
      'its age': (_, clock) => clock.advance(1_200)
    }
    for (const [what, truncate] of Object.entries(truncations)) {
      t.test(`has the head of an event stream when it is cut by ${what}`, async (t) => {
        const clock = new ManualClock()
        const app = await openCompressed(t, { clock, plugin: { maxConnectionAge: 1_000 } })
        const client = app.send('/s', { headers })
        await eventually('its client', () => app.streams.stats().attached === 1)
        await truncate(app, clock)
        t.equal(await client.waitForEnd(), 'truncated')
        t.match(client.headers, head)
      })
    }

    t.test('has the head of an event stream when it is refused', async (t) => {
      const app = await openCompressed(t, { plugin: refusing })
      await app.open('/first')
      const client = await app.open('/second', { headers })
      t.match(client.headers, head)
      t.equal(await client.waitForEnd(), 'truncated')
    })

    // With a bare 200 an EventSource gives up for ever; a reset is what it gets on HTTP/1.1.
    t.test('has no head while a hook holds it back', async (t) => {
      const read = (fastify: FastifyInstance): void => {
        fastify.addHook('onSend', async (_request, _reply, payload) =>
          (payload as NodeJS.ReadableStream).pipe(new PassThrough())
        )
        fastify.addHook('onSend', async () => {
          await turn()
        })
      }
      const app = await openEndless(t, read, { plugin: refusing })
      await app.open('/first')
      const client = app.send('/second')
      t.equal(await client.waitForEnd(), 'truncated')
      t.throws(() => client.head)
    })
  })

  t.test('an onSend hook that wraps the payload gets an ordinary readable', async (t) => {
    const app = await openBehind(t, (fastify) =>
      fastify.addHook('onSend', async (_request, _reply, payload) =>
        (payload as NodeJS.ReadableStream).pipe(new PassThrough())
      )
    )
    const client = await app.open('/')
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
  })

  t.test('an onSend hook may set headers, later', async (t) => {
    const app = await openBehind(t, (fastify) =>
      fastify.addHook('onSend', async (_request, reply) => {
        await turn()
        reply.header('x-late', 'yes')
      })
    )
    const client = await app.open('/')
    t.equal(client.headers['x-late'], 'yes')
    t.equal(await client.waitForEnd(), 'end')
  })

  t.test('the time of a slow onSend hook is not that of a client that is told of a lost stream', async (t) => {
    const clock = new ManualClock()
    const hook = new EventEmitter()
    const app = await openBehind(
      t,
      (fastify) =>
        fastify.addHook('onSend', async () => {
          hook.emit('entered')
          await once(hook, 'leave')
        }),
      { clock, plugin: { stallTimeout: 1_000 } }
    )
    const entered = once(hook, 'entered')
    const client = app.send('/', { lastEventId: 'BBBBBBBB.1' })
    await entered
    clock.advance(1_000)
    hook.emit('leave')
    t.equal(await client.waitForEnd(), 'end')
    t.same(
      client.events.map(({ event }) => event),
      ['stream-gap', 'stream-end']
    )
  })

  t.test('whoever patched the raw response sees every byte', async (t) => {
    let seen = ''
    const app = await openBehind(t, (fastify) =>
      fastify.addHook('onRequest', async (_request, { raw }) => {
        for (const method of ['write', 'end'] as const) {
          const original = raw[method].bind(raw) as (...args: unknown[]) => boolean
          raw[method] = ((...args: unknown[]) => {
            if (typeof args[0] === 'string' || args[0] instanceof Uint8Array) seen += Buffer.from(args[0]).toString()
            return original(...args)
          }) as never
        }
      })
    )
    const client = await app.open('/')
    t.equal(await client.waitForEnd(), 'end')
    t.same(client.data, ['1', '2'])
    t.equal(seen, client.text)
  })

  t.test('onResponse fires when a stream is over', async (t) => {
    let responses = 0
    const app = await openBehind(t, (fastify) => fastify.addHook('onResponse', async () => void responses++))
    await (await app.open('/')).waitForEnd()
    await eventually('onResponse', () => responses > 0)
    t.equal(responses, 1)
  })
})

t.test('a hook that listens to the payload sees all of it, and takes nothing from the client', async (t) => {
  for (const manner of ['at once', 'later'] as const) {
    for (const state of ['starts', 'has finished'] as const) {
      t.test(`${manner}, of a stream that ${state}`, async (t) => {
        let seen = ''
        const listen = (payload: unknown): unknown =>
          (payload as Readable).on('data', (bytes: Buffer) => (seen += bytes.toString()))
        const app = await startApp(t, (fastify) => {
          if (manner === 'at once')
            fastify.addHook('onSend', (_request, _reply, payload, done) => done(null, listen(payload)))
          else fastify.addHook('onSend', async (_request, _reply, payload) => listen(payload))
          fastify.get('/', async (_, reply) => reply.sseFromGenerator(numbers(3), { streamId: 's' }))
        })
        if (state === 'has finished') await (await app.open('/')).waitForEnd()
        seen = ''
        const client = await app.open('/')
        t.equal(await client.waitForEnd(), 'end')
        t.same(
          client.events.map(({ event, data }) => event ?? data),
          ['stream-start', '1', '2', '3', 'stream-end']
        )
        t.equal(seen, client.text)
      })
    }
  }
})

t.test('what waits for a reader when its response is truncated still reaches the client', async (t) => {
  type Read = (payload: Readable, isLetGo: Promise<unknown>) => Readable
  // Each takes the first bytes or none, and the rest once it is let go.
  const readers: Record<string, Read> = {
    'a full pipe': (payload, isLetGo) =>
      payload.pipe(
        new Transform({
          highWaterMark: 1,
          transform: async (bytes, _, done) => {
            await isLetGo
            done(null, bytes)
          }
        })
      ),
    'an async iterator': (payload, isLetGo) =>
      Readable.from(
        (async function* () {
          for await (const bytes of payload) {
            await isLetGo
            yield bytes
          }
        })()
      ),
    'a pause after each chunk': (payload, isLetGo) => {
      const passed = new PassThrough()
      payload.on('data', (bytes) => {
        passed.write(bytes)
        payload.pause()
        void isLetGo.then(() => payload.resume())
      })
      return passed
    },
    'reads until there is nothing': (payload, isLetGo) => {
      const passed = new PassThrough()
      const readAll = (): void => {
        for (let bytes = payload.read(); bytes !== null; bytes = payload.read()) passed.write(bytes)
      }
      payload.on('readable', () => void isLetGo.then(readAll))
      return passed
    },
    'one read of all there is': (payload, isLetGo) => {
      const passed = new PassThrough()
      payload.once('readable', () => void isLetGo.then(() => passed.write(payload.read())))
      return passed
    }
  }

  interface Held {
    readonly client: SseClient
    readonly letGo: () => void
  }

  /** One event, and then what `goOn` does; the reader holds it. */
  async function openHeld(
    t: Test,
    read: Read,
    goOn: (signal: AbortSignal) => unknown,
    options: AppOptions
  ): Promise<Held> {
    const reader = new EventEmitter()
    const isLetGo = once(reader, 'let go')
    const gate = new StepGate()
    const setUp = (fastify: FastifyInstance): void => {
      fastify.addHook('onSend', async (_request, _reply, payload) => read(payload as Readable, isLetGo))
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(
          async function* (signal) {
            await gate.pass(signal)
            yield '1'
            await goOn(signal)
          },
          { streamId: 's' }
        )
      )
    }
    const app = (await startApp(t, setUp, options)).at(0)
    const client = app.send('/')
    await eventually('its client', () => app.streams.stats().attached === 1)
    await turn()
    gate.release(1)
    await eventually('its event', () => app.streams.get('s')?.lastSequence === 1)
    // After a push Node asks for more, in vain, and does not ask again when its bytes are taken.
    await turn()
    return { client, letGo: () => void reader.emit('let go') }
  }

  for (const http2 of [false, true]) {
    for (const [name, read] of Object.entries(readers)) {
      t.test(`${name}, by its age, over ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
        const clock = new ManualClock()
        const plugin = { maxConnectionAge: 1_000, heartbeatInterval: 0, stallTimeout: Infinity }
        const wait = (signal: AbortSignal): Promise<void> => new StepGate().pass(signal)
        const { client, letGo } = await openHeld(t, read, wait, { http2, clock, plugin })
        clock.advance(1_200)
        await turn()
        letGo()
        t.equal(await client.waitForEnd(), 'truncated')
        t.same(client.data, ['1'])
      })

      t.test(`${name}, by a failure right after an event, over ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
        const fail = (): never => {
          throw new Error('failed')
        }
        const { client, letGo } = await openHeld(t, read, fail, { http2, plugin: { controlEvents: false } })
        letGo()
        t.equal(await client.waitForEnd(), 'truncated')
        t.same(client.data, ['1'])
      })
    }
  }
})

t.test('an onSend hook that fails', async (t) => {
  const failures: Record<string, (fastify: FastifyInstance) => unknown> = {
    rejects: (fastify) =>
      fastify.addHook('onSend', async () => {
        throw new Error('hook')
      }),
    'rejects later': (fastify) =>
      fastify.addHook('onSend', async () => {
        await turn()
        throw new Error('hook')
      }),
    'calls back with an error': (fastify) =>
      fastify.addHook('onSend', (_request, _reply, _payload, done) => done(new Error('hook')))
  }
  for (const [name, addHook] of Object.entries(failures)) {
    for (const http2 of [false, true]) {
      t.test(
        `${name}: the client gets a 500 on ${http2 ? 'HTTP/2' : 'HTTP/1.1'}, the run goes on as an orphan`,
        async (t) => {
          const gate = new StepGate()
          const app = await startApp(
            t,
            (fastify) => {
              addHook(fastify)
              fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1, gate), { streamId: 's' }))
            },
            { http2 }
          )
          const client = await app.open('/')
          t.equal(client.status, 500)
          t.equal(await client.waitForEnd(), 'end')
          t.equal(app.fastify.sseStreams.get('s')?.clients, 0)
          gate.release(1)
          await eventually('its end', () => app.fastify.sseStreams.get('s')?.state === 'finished')
          t.equal(app.fastify.sseStreams.get('s')?.outcome, 'completed')
        }
      )
    }
  }

  t.test('answers where there is no stream do not hang either', async (t) => {
    const app = await startApp(t, (fastify) => {
      fastify.addHook('onSend', async () => {
        throw new Error('hook')
      })
      fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's' }))
    })
    for (const lastEventId of ['BBBBBBBB.1', 'BBBBBBBB.end']) {
      const client = await app.open('/', { lastEventId })
      t.equal(client.status, 500)
      t.equal(await client.waitForEnd(), 'end')
    }
  })
})

t.test('an onSend hook that takes its time', async (t) => {
  interface Slow {
    readonly app: App
    readonly gate: StepGate
    readonly hook: StepGate
  }

  async function startSlow(t: Test, options: { bufferSize?: number } = {}): Promise<Slow> {
    const gate = new StepGate()
    const hook = new StepGate()
    const never = new AbortController().signal
    const app = await startApp(t, (fastify) => {
      fastify.addHook('onSend', async (request) => {
        if (request.url.startsWith('/slow')) await hook.pass(never)
      })
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(numbers(9, gate), { streamId: 's', backpressure: 'none', ...options })
      )
      fastify.get('/slow', (_, reply) => reply.sseAttach('s'))
      fastify.get('/slow/live', (_, reply) => reply.sseAttach('s', { from: 'live' }))
    })
    return { app, gate, hook }
  }

  t.test('does not make a gap: the start is decided when the body begins', async (t) => {
    const { app, gate, hook } = await startSlow(t, { bufferSize: 2 })
    const first = await app.open('/')
    gate.release(2)
    await first.waitForData(2)
    const opening = app.open('/slow')
    await eventually('two clients', () => app.fastify.sseStreams.get('s')?.clients === 2)
    gate.release(7)
    await first.waitForEnd()
    hook.release(1)
    const late = await opening
    await late.waitForEnd()
    t.match(late.events, [
      { event: 'stream-start', id: /\.0$/ },
      { event: 'stream-gap', data: '{"reason":"trimmed","missed":7,"resumesAt":8}' },
      { data: '8' },
      { data: '9' },
      { event: 'stream-end' }
    ])
  })

  t.test("'live' is where the stream is when the body begins", async (t) => {
    const { app, gate, hook } = await startSlow(t)
    const first = await app.open('/')
    const opening = app.open('/slow/live')
    await eventually('two clients', () => app.fastify.sseStreams.get('s')?.clients === 2)
    gate.release(3)
    await first.waitForData(3)
    hook.release(1)
    const live = await opening
    t.match(await live.next(), { event: 'stream-start', id: /\.3$/ })
    gate.release(6)
    await live.waitForEnd()
    t.equal(live.data[0], '4')
  })

  t.test('a client that leaves meanwhile is forgotten', async (t) => {
    const { app, hook } = await startSlow(t)
    await app.open('/')
    const socket = connect(app.port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.write('GET /slow HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
    const clients = (): number | undefined => app.fastify.sseStreams.get('s')?.clients
    await eventually('two clients', () => clients() === 2)
    socket.destroy()
    await eventually('one client', () => clients() === 1)
    hook.release(1)
    const next = await app.open('/')
    await next.next()
    t.equal(clients(), 2)
  })
})

t.test('the producer keeps the async context of the request that started it, whoever triggers a step', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const gate = new StepGate()
  const seen: (string | undefined)[] = []
  const app = await startApp(t, (fastify) => {
    fastify.addHook('onRequest', (request, _reply, done) => storage.run(String(request.headers['x-user']), done))
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(
        async function* (signal) {
          try {
            for (let number = 0; number < 4; number++) {
              await gate.pass(signal)
              seen.push(storage.getStore())
              // Larger than what runs ahead of a client: a client that drains triggers the next step.
              yield 'x'.repeat(30_000)
            }
          } finally {
            seen.push(storage.getStore())
          }
        },
        { streamId: 's', bufferBytes: 40_000 }
      )
    )
  })
  const first = await app.open('/', { headers: { 'x-user': 'ada' } })
  gate.release(1)
  await first.waitForData(1)
  await first.drop()
  const second = await app.open('/', { headers: { 'x-user': 'bob' }, lastEventId: first.lastEventId })
  gate.release(3)
  await second.waitForEnd()
  t.same(new Set(seen), new Set(['ada']))
  t.equal(seen.length, 5)
})

t.test('a generator may add a listener per step without a warning', async (t) => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(async function* (signal) {
        for (let number = 0; number < 50; number++) {
          signal.addEventListener('abort', () => {})
          yield String(number)
        }
      })
    )
  )
  await (await app.open('/')).waitForEnd()
  await turn()
  t.same(warnings, [])
})

t.test("a stream leaves no listener on a user's signal", async (t) => {
  const { signal } = new AbortController()
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) => reply.sseFromGenerator(numbers(1), { signal }))
  )
  for (let run = 0; run < 3; run++) await (await app.open('/')).waitForEnd()
  t.equal(app.fastify.sseStreams.stats().started, 3)
  t.equal(getEventListeners(signal, 'abort').length, 0)
})

// From some version after 5.7 on Fastify pipes with `end: false`; before, it sends them at the `end` of the payload.
t.test('trailers follow the last event', async (t) => {
  const app = await startApp(t, (fastify) => {
    fastify.get('/', (_, reply) => {
      reply.trailer('checksum', async () => 'abc')
      return reply.sseFromGenerator(numbers(2))
    })
  })
  const { trailers, body } = await new Promise<{ trailers: NodeJS.Dict<string>; body: string }>((resolve, reject) => {
    get({ port: app.port, headers: { te: 'trailers' } }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (body += chunk))
      response.on('end', () => resolve({ trailers: response.trailers, body }))
    }).on('error', reject)
  })
  t.equal(trailers.checksum, 'abc')
  t.match(body, /\n\nevent: stream-end\ndata: \{"outcome":"completed"\}\nid: \S+\.end\n\n$/)
})
