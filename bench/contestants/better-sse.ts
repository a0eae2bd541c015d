/** `better-sse` as its README shows it: a channel for a feed, `session.iterate` for an answer. */
import { createChannel, createSession } from 'better-sse'
import Fastify from 'fastify'
import type { ServerResponse } from 'node:http'
import type { Material, Running } from '../harness/contestant.ts'
import { Gate } from './hub.ts'
import { listenFastify } from './listen.ts'

export async function start({ source, heartbeatMs }: Material): Promise<Running> {
  const fastify = Fastify()
  const channel = createChannel()
  const responses = new Set<ServerResponse>()
  const gate = new Gate()
  const options = heartbeatMs === undefined ? {} : { keepAlive: heartbeatMs }

  fastify.get('/feed', async (request, reply) => {
    reply.hijack()
    const session = await createSession(request.raw, reply.raw, options)
    channel.register(session)
    responses.add(reply.raw)
    reply.raw.on('close', () => responses.delete(reply.raw))
  })

  fastify.get('/tokens', async (request, reply) => {
    reply.hijack()
    const session = await createSession(request.raw, reply.raw, options)
    await session.iterate(source.tokens())
    reply.raw.end()
  })

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const value of source.feed()) {
      channel.broadcast(value, 'message', { eventId: String(++id) })
      await gate.passed(value.length, () => responses)
    }
  }

  void broadcast()
  return { port: await listenFastify(fastify) }
}
