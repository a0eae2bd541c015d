/** `@fastify/sse` as its README shows it: `keepAlive()` and `send()` for a feed, `send(generator)` for an answer. */
import { fastifySSE, type SSEReplyInterface } from '@fastify/sse'
import Fastify, { type FastifyReply } from 'fastify'
import type { Material, Running } from '../harness/contestant.ts'
import { bodyOf, valueOf } from '../harness/source.ts'
import { listenFastify } from './listen.ts'

export async function start({ source, heartbeatMs, history }: Material): Promise<Running> {
  const fastify = Fastify()
  await fastify.register(fastifySSE, { heartbeatInterval: heartbeatMs ?? 30_000 })
  const clients = new Set<SSEReplyInterface>()

  fastify.get('/feed', { sse: 'only' }, async (_request, reply) => {
    const sse = sseOf(reply)
    sse.keepAlive()
    sse.sendHeaders()
    reply.raw.flushHeaders()
    clients.add(sse)
    sse.onClose(() => clients.delete(sse))
  })

  fastify.get('/tokens', { sse: 'only' }, async (_request, reply) => {
    await sseOf(reply).send(messages())
  })

  async function* messages(): AsyncGenerator<{ id: string; data: string }, void> {
    let id = 0
    for await (const data of source.tokens()) yield { id: String(++id), data }
  }

  const kept: { id: string; data: string }[] = []
  const body = bodyOf(history?.bytes ?? 0, false)
  for (let sequence = 0; sequence < (history?.events ?? 0); sequence++) {
    kept.push({ id: String(sequence + 1), data: valueOf(sequence, body, false) })
  }

  fastify.get('/history', { sse: 'only' }, async (_request, reply) => {
    const sse = sseOf(reply)
    const after = kept.findIndex((message) => message.id === sse.lastEventId)
    for (const message of kept.slice(after + 1)) await sse.send(message)
  })

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const data of source.feed()) {
      const message = { id: String(++id), data }
      await Promise.all(Array.from(clients, (sse) => sse.send(message)))
    }
  }

  void broadcast()
  fastify.get('/ping', async () => ({ pong: true }))
  return { port: await listenFastify(fastify) }
}

/** Its types and those of fastify-sse-v2 claim the same name. */
function sseOf(reply: FastifyReply): SSEReplyInterface {
  const { sse } = reply as unknown as { readonly sse: SSEReplyInterface }
  return sse
}
