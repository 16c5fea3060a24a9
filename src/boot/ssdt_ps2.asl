/* Keyboard and mouse, for machines that have them. */
DefinitionBlock ("ssdt_ps2.aml", "SSDT", 2, "NESTBX", "PS2     ", 0x00000001)
{
	External (\_SB.PCI0.ISA, DeviceObj)

	Scope (\_SB.PCI0.ISA)
	{
		Device (KBD)
		{
			Name (_HID, EisaId ("PNP0303"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x60, 0x60, 1, 1)
				IO (Decode16, 0x64, 0x64, 1, 1)
				IRQNoFlags () { 1 }
			})
		}

		Device (MOU)
		{
			Name (_HID, EisaId ("PNP0F13"))
			Name (_CRS, ResourceTemplate ()
			{
				IRQNoFlags () { 12 }
			})
		}
	}
}
