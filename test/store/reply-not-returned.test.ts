import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { setTimeout as delay } from 'node:timers/promises'
import { test } from 'tap'
import { createSystemClock } from '../../src/clock.ts'
import { streamPlugin } from '../../src/index.ts'
import { MemoryServer } from '../helpers/memory-store.ts'
import { numbers } from '../helpers/numbers.ts'
import { createRecordingLog } from '../helpers/recording-log.ts'

type Route = (request: FastifyRequest, reply: FastifyReply) => unknown

const stream = (reply: FastifyReply): FastifyReply => reply.sseFromGenerator(numbers(2))

const mistakes: Readonly<Record<string, Route>> = {
  'returns nothing': async (_, reply) => void stream(reply),
  'returns an object': async (_, reply) => {
    stream(reply)
    return { a: 1 }
  },
  'returns null': async (_, reply) => {
    stream(reply)
    return null
  },
  'returns an empty text': async (_, reply) => {
    stream(reply)
    return ''
  },
  'answers besides': (_, reply) => {
    stream(reply)
    reply.code(201).send('something else')
  }
}

const rightOnes: Readonly<Record<string, Route>> = {
  'returns the reply': async (_, reply) => stream(reply),
  'is not async': (_, reply) => {
    stream(reply)
  }
}

async function ask(
  route: Route,
  addHooks: (fastify: FastifyInstance) => unknown = () => {}
): Promise<{ status: number; body: string; codes: unknown[] }> {
  const { log, lines } = createRecordingLog()
  const fastify = Fastify({ loggerInstance: log })
  const store = new MemoryServer(createSystemClock()).connect(15_000)
  store.onCall = () => delay(50)
  await fastify.register(streamPlugin, { store })
  addHooks(fastify)
  fastify.get('/', route)
  await fastify.listen({ host: '127.0.0.1', port: 0 })
  try {
    const response = await fetch(fastify.listeningOrigin)
    const [status, body] = [response.status, await response.text()]
    return { status, body, codes: lines.flatMap(({ fields }) => (fields['err'] as { code?: string })?.code ?? []) }
  } finally {
    await fastify.close()
  }
}

for (const [what, route] of Object.entries(mistakes)) {
  test(`with a store, a handler that ${what} fails with an error that says so`, async (t) => {
    const { status, body, codes } = await ask(route)
    t.equal(status, 500)
    t.match(JSON.parse(body), { code: 'FST_ERR_RSSE_REPLY_NOT_RETURNED', message: /return reply.sseFromGenerator/ })
    t.ok(codes.includes('FST_ERR_RSSE_REPLY_NOT_RETURNED'), 'and so does the log')
  })
}

for (const [what, route] of Object.entries(rightOnes)) {
  test(`with a store, a handler that ${what} is answered`, async (t) => {
    const { status, body } = await ask(route)
    t.equal(status, 200)
    t.match(body, /^event: stream-end$/m)
  })
}

test('with a store, an error of the handler is its own', async (t) => {
  const { status, body } = await ask(async (_, reply) => {
    stream(reply)
    throw Object.assign(new Error('mine'), { statusCode: 418 })
  })
  t.equal(status, 418)
  t.match(JSON.parse(body), { message: 'mine' })
})

for (const name of ['onError', 'onSend'] as const) {
  test(`with a store, what it answers while an ${name} hook of the error takes its time changes nothing`, async (t) => {
    const slow = async (): Promise<void> => delay(200)
    const { status, body, codes } = await ask(
      async (_, reply) => void stream(reply),
      (fastify) => (name === 'onError' ? fastify.addHook(name, slow) : fastify.addHook(name, slow))
    )
    t.equal(status, 500)
    t.match(JSON.parse(body), { code: 'FST_ERR_RSSE_REPLY_NOT_RETURNED' })
    await delay(50)
    t.strictSame(
      codes.filter((code) => code !== 'FST_ERR_RSSE_REPLY_NOT_RETURNED'),
      []
    )
  })
}

for (const [what, thrown, status, message] of [
  ['an object', { statusCode: 422, message: 'no' }, 422, 'no'],
  ['a text', 'no', 500, 'no'],
  ['nothing', undefined, 500, 'undefined was thrown']
] as const) {
  test(`with a store, a handler of a stream that throws ${what} has failed`, async (t) => {
    const answer = await ask((_, reply) =>
      reply.sseFromGenerator(() => {
        throw thrown
      })
    )
    t.equal(answer.status, status)
    t.match(JSON.parse(answer.body), { statusCode: status, message })
  })
}

test('with a store, a second answer to a request that waits for the first starts nothing', async (t) => {
  let runs = 0
  const { status, body } = await ask((_, reply) => {
    stream(reply)
    return reply.sseFromGenerator(() => {
      runs += 1
      return []
    })
  })
  t.equal(status, 200)
  t.match(body, /^event: stream-end$/m)
  t.equal(runs, 0)
})
