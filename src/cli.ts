#!/usr/bin/env node
/** The second door into the same rooms, from a shell. To end with 0 is as good as a 2xx. */
import './kept-tick.ts'
import { parseArgs } from 'node:util'
import { commands, explain, options, type Told } from './commands.ts'

const usage = `usage: latchkey                     serves; the settings are in the environment
       latchkey migrate             brings the schema of DATABASE_URL up to date
       latchkey keys list           lists the signing keys
       latchkey keys rotate         makes the key that signs next
       latchkey keys import FILE    takes a private key (PEM or JWK) for the one that signs next
       latchkey keys remove KID     takes a key back, and with it every token that it signed
       latchkey clients list        lists the accounts of services
       latchkey clients create NAME [--scope SCOPE]...
                                    makes one, and tells its secret this once
       latchkey clients renew ID    gives it another secret
       latchkey clients disable ID  closes it, with every token that it was issued
       latchkey users list [--query TEXT] [--role ROLE] [--status STATUS]
                                    lists the accounts of people whose name or address begins so
       latchkey users create NAME [--email ADDRESS [--email-verified]] [--role ROLE]...
                                    makes one, and tells its password this once
       latchkey users import FILE   makes those of another system: a line of JSON each, with username, password_hash (Argon2, bcrypt,
                                    or scrypt or PBKDF2 as Werkzeug and passlib write them), and email, email_verified and roles if
                                    there are any
       latchkey users roles NAME [--role ROLE]...
                                    replaces its roles
       latchkey users disable NAME  closes it, with all that it was issued; latchkey users enable NAME opens it again
       latchkey users remove-mfa NAME
                                    takes the second factor from whoever has lost theirs
       latchkey users revoke NAME [--session ID] [--reason WHY] [--dry-run]
                                    ends all that it was issued, or one session, or tells what that would be
       latchkey users delete NAME   leaves nothing of it
       latchkey tokens revoke JTI [--reason WHY]
                                    ends one access token

       --json                       tells it to a program
       --                           before a KID that begins with a dash
`

function tell(told: Told, json: boolean): string {
  if (json) return JSON.stringify(told)
  return typeof told === 'string' ? told : told.map((row) => Object.values(row).join('  ')).join('\n')
}

/** @returns undefined for what is not a command */
function parse(args: readonly string[]) {
  try {
    const { values, positionals, tokens } = parseArgs({
      args: [...args],
      options,
      allowPositionals: true,
      tokens: true,
    })
    const words = ['keys', 'clients', 'users', 'tokens'].includes(positionals[0] ?? '') ? 2 : 1
    const name = positionals.slice(0, words).join(' ') || 'serve'
    const operands = positionals.slice(words)
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined
    if (command?.operands !== operands.length) return undefined
    const known: string[] = ['json', ...(command.options ?? [])]
    if (tokens.some((token) => token.kind === 'option' && !known.includes(token.name))) return undefined
    return { name, operand: operands[0] ?? '', options: values, run: command.run }
  } catch {
    return undefined
  }
}

const asked = parse(process.argv.slice(2))
if (!asked) {
  process.stderr.write(usage)
  process.exitCode = 2
} else {
  try {
    const told = await asked.run(asked.operand, asked.options)
    if (told !== undefined) process.stdout.write(`${tell(told, asked.options.json)}\n`)
  } catch (error) {
    process.stderr.write(`latchkey ${asked.name}: ${explain(error)}\n`)
    process.exitCode = 1
  }
}
