import { randomUUID } from 'node:crypto'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import nodemailer from 'nodemailer'

export interface Letter {
  to: string
  subject: string
  text: string
}

/** Resolves when somebody else has it. @throws Error if nobody took it */
export type SendLetter = (letter: Letter) => Promise<void>

/** A mail server, or a folder for development. */
export type MailTarget = { smtpUrl: string } | { outboxFolder: string }

const patienceMs = 10_000

/** @param from the address that it comes from, by itself or as `Name <address>` */
export function createTransport(target: MailTarget, from: string): SendLetter {
  if ('smtpUrl' in target) {
    const smtp = nodemailer.createTransport(
      {
        url: target.smtpUrl,
        connectionTimeout: patienceMs,
        greetingTimeout: patienceMs,
        socketTimeout: patienceMs,
      },
      { from },
    )
    return async (letter) => void (await smtp.sendMail(letter))
  }
  const { outboxFolder } = target
  return async ({ to, subject, text }) => {
    await mkdir(outboxFolder, { recursive: true, mode: 0o700 })
    const name = `${new Date().toISOString()}-${randomUUID().slice(0, 8)}.txt`
    const written = `From: ${from}\nTo: ${to}\nSubject: ${subject}\n\n${text}`
    // Under its own name only when it is whole.
    const unnamed = join(outboxFolder, `.${name}`)
    await writeFile(unnamed, written, { mode: 0o600 })
    await rename(unnamed, join(outboxFolder, name))
  }
}
