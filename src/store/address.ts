import { hash } from 'node:crypto'
import type { StreamAddress } from './store.ts'

/** Where everything of one stream is; one hash tag, so that one node of a cluster has it all. */
export interface Place {
  readonly record: string
  readonly log: string
  readonly channel: string
}

// 132 bits: nobody finds a name that shares the key of another's. Every command and message carries it up to three times.
const TAG_LENGTH = 22

export function placeOf(prefix: string, address: StreamAddress): Place {
  return placeAt(prefix, hash('sha256', nameOf(address), 'base64url').slice(0, TAG_LENGTH))
}

/** For trying what is allowed: no stream is there, since no hash is that short. */
export function probePlace(prefix: string): Place {
  return placeAt(prefix, 'probe')
}

export function homeChannel(prefix: string, instance: string): string {
  return `${prefix}:${instance}`
}

function placeAt(prefix: string, tag: string): Place {
  const channel = `{${prefix}:${tag}}`
  return { record: `${channel}:m`, log: `${channel}:l`, channel }
}

/** One text for each address, and one address for each: JSON escapes what has no UTF-8, such as half a surrogate pair. */
export function nameOf({ owner, streamId }: StreamAddress): string {
  return JSON.stringify([owner ?? null, streamId])
}

/** The address of a name that came over the wire; undefined where it is none. */
export function parseName(name: string): StreamAddress | undefined {
  const parts: unknown = JSON.parse(name)
  if (!Array.isArray(parts) || parts.length !== 2) return undefined
  const [owner, streamId] = parts as unknown[]
  if (typeof streamId !== 'string' || !(owner === null || typeof owner === 'string')) return undefined
  return { streamId, owner: owner ?? undefined }
}
