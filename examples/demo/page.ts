import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'

/** Serves a page at `/`, with the style and the script that the pages of the demos share. */
export function servePage(fastify: FastifyInstance, page: URL): void {
  for (const [path, url, type] of [
    ['/', page, 'text/html'],
    ['/page.css', new URL('page.css', import.meta.url), 'text/css'],
    ['/reader.js', new URL('reader.js', import.meta.url), 'text/javascript']
  ] as const) {
    const file = readFileSync(url)
    fastify.get(path, (_request, reply) => reply.type(`${type}; charset=utf-8`).send(file))
  }
}
