/** `fastify-sse-v2` as its README shows it: single events for a feed, `sse(generator)` for an answer. */
import Fastify, { type FastifyReply } from 'fastify'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import type { Material, Running } from '../harness/contestant.ts'
import { Gate } from './hub.ts'
import { listenFastify } from './listen.ts'

export async function start({ source, heartbeatMs }: Material): Promise<Running> {
  const fastify = Fastify()
  await fastify.register(FastifySSEPlugin)
  const clients = new Set<FastifyReply>()
  const gate = new Gate()

  fastify.get('/feed', (request, reply) => {
    reply.sse({ comment: 'connected' })
    clients.add(reply)
    request.socket.on('close', () => clients.delete(reply))
  })

  fastify.get('/tokens', (_request, reply) => {
    reply.sse(messages())
  })

  async function* messages(): AsyncGenerator<{ id: string; data: string }, void> {
    let id = 0
    for await (const data of source.tokens()) yield { id: String(++id), data }
  }

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const data of source.feed()) {
      const message = { id: String(++id), data }
      for (const reply of clients) reply.sse(message)
      await gate.passed(data.length, () => Array.from(clients, (reply) => reply.raw))
    }
  }

  void broadcast()
  // It has no keep-alive of its own.
  if (heartbeatMs !== undefined) {
    setInterval(() => {
      for (const reply of clients) reply.sse({ comment: 'ping' })
    }, heartbeatMs)
  }
  return { port: await listenFastify(fastify) }
}
