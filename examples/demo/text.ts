import { readFileSync } from 'node:fs'

/** What is streamed. Herman Melville, Moby-Dick (1851), the first three paragraphs. */
export const text: string = readFileSync(new URL('text.txt', import.meta.url), 'utf8').trimEnd()

/** The words with the white space that follows them, so that joining them gives the text again. */
export const words: readonly string[] = text.match(/\S+\s*/g) ?? []

/** Yields the words; `pause` waits before each. */
export async function* speak(
  pause: (signal: AbortSignal) => Promise<unknown>,
  signal: AbortSignal
): AsyncGenerator<{ event: string; data: string }> {
  for (const word of words) {
    await pause(signal)
    yield { event: 'word', data: word }
  }
}
